/** The embedded models pack to the same digest everywhere. */
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { packFolder, PACKER_VERSION } from '../../tools/pack/folder.ts'
import { root, scratch } from './packing.ts'

/**
 * If a digest changed because the packer did: raise PACKER_VERSION, so that caches are not mistaken for the new pack, and pin
 * the new digests here. If it changed for any other reason, packs are not the same everywhere, which they must be.
 */
const pinned = {
  version: 2,
  'tales-3m': '22ff67e260124af2f46aae91311bc70a45911fe77f1c291d0d78d654aa2955b6',
  'intents-3m': '78c494ad847d3f029d91a654ab7042d19eb2dccd73f21f3f7b5a0b9816c88256',
}

test('the packer is the one these digests are of', () => {
  expect(PACKER_VERSION).toBe(pinned.version)
})

for (const name of ['tales-3m', 'intents-3m'] as const)
  test(`${name} has its pinned digest`, async () => {
    const { path, remove } = scratch()
    try {
      expect((await packFolder(join(root, 'models', name), { out: join(path, 'pack'), name })).digest).toBe(
        pinned[name],
      )
    } finally {
      remove()
    }
  })
