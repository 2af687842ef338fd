/** In place of what needs a server, of calls and of changes: nothing. */

export const Actions = () => null;
export const Command = () => null;
export const Try = null;
export const commandOf = () => "";
export const follow = () => {};
