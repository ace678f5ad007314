import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { dawn } from '../../engine/backends/webgpu/dawn.ts'
import { addOneOn } from './add-one.ts'
import { law } from './random.ts'

const module = new URL('../../engine/backends/webgpu/dawn.ts', import.meta.url).href

/** What `dawn()` says in a process of its own, where the environment is still what we make it. */
async function elsewhere(env: NodeJS.ProcessEnv): Promise<string> {
  const script = `import(${JSON.stringify(module)})
    .then(({ dawn }) => dawn())
    .then(({ name }) => console.log(name), (error) => console.log(String(error)))`
  const options = { env: { ...process.env, ...env } }
  return (await promisify(execFile)(process.execPath, ['--eval', script], options)).stdout.trim()
}

law('every call gives a device that computes, and the environment is left as it was', async (random) => {
  const before = process.env.VK_DRIVER_FILES
  for (let i = 0; i < 5; i++) {
    const { adapter } = await dawn({ software: random.pick([true, false]) })
    const values = random.int32(random.int(1, 100), -1000, 1000)
    const expected = values.map((v) => v + 1)
    expect(await addOneOn(await adapter.requestDevice(), values)).toEqual(expected)
  }
  expect(process.env.VK_DRIVER_FILES).toBe(before)
})

test.runIf(process.platform === 'linux')('a driver named from outside is the only one tried', async () => {
  expect(await elsewhere({ VK_DRIVER_FILES: '/no/such/icd.json' })).toMatch(
    /^DawnError: the Vulkan driver .* gives no adapter \(\/no\/such\/icd\.json\)/,
  )
})

test('a process of its own finds the adapter this one finds', async () => {
  expect(await elsewhere({})).toBe((await dawn()).name)
})
