/** Drawn tokens to text, piece by piece, ending exactly where a stop string begins. */
import type { StreamDecoder } from '../../engine/tokenizer.ts'

export class ChoiceText {
  readonly #decoder: StreamDecoder
  readonly #stops: readonly string[]
  /** Decoded, and possibly the beginning of a stop string. */
  #held = ''
  isStopped = false

  constructor(decoder: StreamDecoder, stops: readonly string[]) {
    this.#decoder = decoder
    this.#stops = stops
  }

  /** The text that is certain now. After the token that completes a stop string `isStopped`, and nothing more comes. */
  push(id: number): string {
    return this.isStopped ? '' : this.#take(this.#decoder.push(id), false)
  }

  /** What was held back, once no more tokens come. */
  end(): string {
    return this.isStopped ? '' : this.#take(this.#decoder.flush(), true)
  }

  #take(piece: string, isLast: boolean): string {
    this.#held += piece
    const cut = firstStop(this.#held, this.#stops)
    if (cut !== null) {
      this.isStopped = true
      return this.#held.slice(0, cut)
    }
    const keep = isLast ? 0 : longestBeginning(this.#held, this.#stops)
    const certain = this.#held.slice(0, this.#held.length - keep)
    this.#held = this.#held.slice(certain.length)
    return certain
  }
}

/** Where the text ends: at the stop string that is complete first, whichever pieces it came in. */
function firstStop(text: string, stops: readonly string[]): number | null {
  let cut: number | null = null
  let end = Infinity
  for (const stop of stops) {
    const at = text.indexOf(stop)
    if (at < 0) continue
    if (at + stop.length < end || (at + stop.length === end && at < cut!)) {
      end = at + stop.length
      cut = at
    }
  }
  return cut
}

/** Length of the longest end of `text` that a stop string begins with. */
function longestBeginning(text: string, stops: readonly string[]): number {
  let longest = 0
  for (const stop of stops)
    for (let n = Math.min(stop.length - 1, text.length); n > longest; n--)
      if (text.endsWith(stop.slice(0, n))) {
        longest = n
        break
      }
  return longest
}
