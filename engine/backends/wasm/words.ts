/** The shared words between the caller and its threads. */

/** Changes whenever there is something to look at: what threads wait on. */
export const SIGNAL = 0
/** Messages sent so far to every thread. */
export const MAIL = 1
/** Plays started so far. */
export const PLAYS = 2
/** The Program being played. */
export const PROGRAM = 3
export const words = 16

/** Of a Program's own memory (assembly/index.ts): what its caller may sleep on, and that a thread broke in it. */
export const DONE = 5
export const BROKEN = 6
