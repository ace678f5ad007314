/** Every bound of the core, with the arithmetic behind it. */

export const SETTINGS = {
  /** A frame within this, or a ping: 20,000 volunteers cost 4,000 pings/s at worst, 4 % of a core at 10 µs each. */
  pingMs: 5_000,
  /** Three unanswered pings. A socket that dies in silence keeps its units this long, unless hedged before. */
  silentMs: 15_000,
  /** 20 frames/s per generate unit read as fluent text and stay below 1 % of a core for 300 of them. */
  progressMs: 50,
  /** 20,000 volunteers come back over a minute: 333 handshakes/s at 0.7 ms each, a quarter of a core. */
  reconnectMsMax: 60_000,
} as const

export const LIMITS = {
  /** Volunteers compared per decision: the best of 32 random ones is in the best 10 % with probability 0.97. */
  sample: 32,
  /** Units given back that are looked at for one a free volunteer may take; the others were tried by those who are free. */
  scan: 32,

  /** Hedge no sooner than this past the expected end: timers and sockets jitter by tens of milliseconds. */
  hedgeMsMin: 50,
  /** Deviations past the expected end at which a volunteer is suspect (RFC 6298's K). */
  hedgeDeviations: 4,
  /** A stream is late no sooner than this after its last tokens: progress comes every 50 ms, browsers stall for frames. */
  gapMsMin: 250,
  /** Duplicate work allowed: tokens per execution, and how many may be saved up for a bad moment. */
  hedgeShare: 0.05,
  hedgeBurst: 20,
  /** Or this share of the volunteers, where that is more: an access network that fails takes many along at once. */
  hedgeBurstShare: 0.02,
  /** Copies of a unit at once: the first and one hedge. */
  copies: 2,
  /** The least time a unit is believed to take. */
  measuredMsMin: 0.1,
  leaseMsMin: 5_000,
  leaseMsMax: 600_000,
  /** After a lost lease a volunteer rests 5 s · 2ⁿ, at most a minute, or until it answers something. */
  restMs: 5_000,
  /** After a failed unit: shorter, since the unit may be to blame. */
  failRestMs: 250,
  failRestMsMax: 4_000,
  restMsMax: 60_000,

  /** A unit is wrong itself when this many different volunteers failed it, or it was tried this often at all. */
  failures: 3,
  attempts: 6,
  /** A unit given out so often in vain goes to who answered most, whoever is fastest. */
  givenBack: 4,
  /** Checks that may wait per trusted engine before newcomers, whose every answer is one more, get no more work. */
  unchecked: 32,
  /** A check that so many did not make is for trusted engines, where there are any. */
  checkers: 2,
  /** Answers of a wrong shape, or about units it never had, before a volunteer is sent away. */
  strikes: 8,

  /** Size of an encoder unit in milliseconds of its volunteer's measured speed: clamp(10·RTT, low, high). */
  unitMsMin: 300,
  unitMsMax: 1_000,
  /** Prefetch: one unit in hand when service ≥ this many round trips (idle share ≤ 1/10), else ceil(1 + RTT / service). */
  roundTripsHidden: 10,
  /** Drawing a token is a pass over the weights that reading a prompt shares among many: cost in read tokens. */
  drawCost: 8,

  /** A longer gap between two events means that this process slept, since every volunteer is asked each 5 s: nobody was late. */
  sleptMs: 10_000,
  /** Without any capable volunteer, accepted work waits this long for one to come back. */
  strandedMs: 30_000,
  /** The house is asked when nobody else is expected to be free within this. */
  houseMs: 1_000,
  /** Every tenth dispatch goes to batch work when there is some: its floor under interactive load. */
  batchEvery: 10,

  deadlineMs: 600_000,
  deadlineMsMax: 86_400_000,
  /** ~2 KB each without its tokens: 80 MB. */
  jobs: 40_000,
  jobsPerRequester: 20_000,
  /** Token ids waiting, 4 bytes each: 256 MiB. */
  tokensQueued: 64 * 1024 * 1024,
  choices: 128,
  rows: 65_536,
} as const
