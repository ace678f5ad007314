/**
 * A running mean with its deviation, in the form of RFC 6298 (TCP's retransmission timer):
 * D ← ¾·D + ¼·|S − x|, S ← ⅞·S + ⅛·x; the first sample sets S = x, D = x / 2.
 */
export class Estimate {
  mean: number
  deviation: number
  samples = 0

  /** @param prior believed until the first sample, with a deviation of half of it */
  constructor(prior: number) {
    this.mean = prior
    this.deviation = prior / 2
  }

  observe(x: number): void {
    if (this.samples++ === 0) {
      this.mean = x
      this.deviation = x / 2
      return
    }
    this.deviation += (Math.abs(this.mean - x) - this.deviation) / 4
    this.mean += (x - this.mean) / 8
  }

  /**
   * Widens the doubt after waiting in vain: a lost lease, a freeze. A lease of 3·(S + 4·D) is three times as long as this wait then,
   * so that a mean far too low is outgrown, as TCP doubles its timer (RFC 6298 §5.5).
   */
  doubt(waited: number): void {
    this.deviation = Math.max(this.deviation, this.mean / 2, waited / 4)
  }
}
