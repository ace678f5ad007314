/** Lower-case hex of a digest, four bytes at a time: a table of all bytes would be read from all over memory. */
export function hex(bytes: Uint8Array): string {
  const words = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  let text = ''
  for (let at = 0; at < bytes.length; at += 4) text += words.getUint32(at).toString(16).padStart(8, '0')
  return text
}
