/** What one message may hold. Each bound also bounds what a hostile peer can make the other side allocate. */
export const LIMITS = {
  /** Slots a volunteer may offer: prefetch needs ceil(1 + RTT / service), 32 covers 300 ms of RTT over 10 ms units. */
  slots: 32,
  assignmentsPerFrame: 8,
  /** Rows of an encoder unit; more would not fit a result frame at width 1,024. */
  rowsPerUnit: 256,
  modelsPerVolunteer: 64,
  modelsServed: 64,
  /** What a volunteer may bring along from an earlier connection: its slots, and answers just sent. */
  held: 64,
  tokensPerSequence: 131_072,
  tokenId: 2 ** 24,
  logprobs: 20,
  /** Leaves of a unit's trace: the whole payload of a frame. Longer traces are committed to in larger chunks. */
  leaves: 32_768,
  idChars: 64,
  textChars: 200,
  detailChars: 500,
} as const

/** 64 models in a welcome are ~14 KB; 8 assignments of 256 rows, 10 KB. */
export const META_BYTES_MAX = 32 * 1024
/** A context of 131,072 tokens is 512 KiB, a result of 256 rows of width 1,024 is 1 MiB. */
export const PAYLOAD_BYTES_MAX = 1024 * 1024
