/** Files of JSON lines, read as they stream: never more than one line is held, whatever comes. */

export interface Line {
  /** From 1; blank lines count. */
  line: number
  /** Where its bytes lie in the file, without the line's end. */
  offset: number
  bytes: number
  /** Null for the faults. */
  text: string | null
  fault: 'too_long' | 'not_utf8' | null
}

const NEWLINE = 0x0a
const RETURN = 0x0d
const BYTE_ORDER_MARK = Buffer.from([0xef, 0xbb, 0xbf])

/** Lines in portions, as many as each piece of input completes. Blank ones are left out. A line ends with LF or CRLF. */
export async function* linesOf(
  input: AsyncIterable<Uint8Array>,
  lineBytesMax: number,
): AsyncGenerator<Line[], void, void> {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  let line = 1
  /** Where the current line begins, and its bytes so far: pieces of earlier inputs. */
  let offset = 0
  let held: Buffer[] = []
  let heldBytes = 0

  const take = (rest: Buffer): Line | null => {
    let bytes = heldBytes + rest.length
    const isTooLong = bytes > lineBytesMax
    const whole = isTooLong ? null : held.length ? Buffer.concat([...held, rest], bytes) : rest
    held = []
    heldBytes = 0
    let at = offset
    const number = line++
    offset += bytes + 1
    if (!whole) return { line: number, offset: at, bytes, text: null, fault: 'too_long' }
    let content = whole
    if (at === 0 && content.subarray(0, 3).equals(BYTE_ORDER_MARK)) {
      content = content.subarray(3)
      at = 3
    }
    if (content.at(-1) === RETURN) content = content.subarray(0, -1)
    bytes = content.length
    try {
      const text = decoder.decode(content)
      return text.trim() === '' ? null : { line: number, offset: at, bytes, text, fault: null }
    } catch {
      return { line: number, offset: at, bytes, text: null, fault: 'not_utf8' }
    }
  }

  for await (const piece of input) {
    const bytes = Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength)
    const lines: Line[] = []
    let from = 0
    for (let end = bytes.indexOf(NEWLINE); end >= 0; end = bytes.indexOf(NEWLINE, from)) {
      const one = take(bytes.subarray(from, end))
      if (one) lines.push(one)
      from = end + 1
    }
    const rest = bytes.subarray(from)
    // Of a line that is too long only its length is kept. A copy: the input's buffer may be used again.
    if (heldBytes + rest.length > lineBytesMax) held = []
    else if (rest.length) held.push(Buffer.from(rest))
    heldBytes += rest.length
    if (lines.length) yield lines
  }
  if (heldBytes > 0) {
    const last = take(Buffer.alloc(0))
    if (last) yield [last]
  }
}
