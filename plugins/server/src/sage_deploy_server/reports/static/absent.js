/** Empty replacements for calls and changes, which need a server. */

export const Actions = () => null;
export const Command = () => null;
export const Try = null;
export const commandOf = () => "";
export const follow = () => {};
