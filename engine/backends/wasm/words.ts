/** The shared words between the caller and its threads. */

/** Changes whenever there is something to look at: what threads wait on. */
export const SIGNAL = 0
/** Messages sent so far to every thread. */
export const MAIL = 1
/** Plays started so far. */
export const PLAYS = 2
/** The play's program, then its arguments: steps, count, rows, picks, segments, scratch, scratch per thread. */
export const argumentsFrom = 3
export const words = 16
