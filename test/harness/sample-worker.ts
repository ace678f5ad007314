/** A module worker, for page.test.ts: adds one to shared memory and to values on its own GPU, and says it has done so. */
import { addOneOn } from './add-one.ts'

globalThis.addEventListener('message', (event: MessageEvent<Int32Array<SharedArrayBuffer>>) => {
  const shared = event.data
  void (async () => {
    Atomics.add(shared, 0, 1)
    const adapter = await navigator.gpu?.requestAdapter()
    const device = await adapter?.requestDevice()
    globalThis.postMessage(device ? await addOneOn(device, new Int32Array([41])) : 'no adapter')
  })()
})
