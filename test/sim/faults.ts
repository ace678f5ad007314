/** What goes wrong, and when: drawn from the world's seed before it starts to run. */
import type { Device } from './volunteer.ts'
import type { World } from './world.ts'

const HALF_HOUR = 1_800_000

export function scheduleFaults(world: World): void {
  const { options: o, random, devices } = world
  if (o.faultMs <= 0) return
  for (const device of devices) {
    if (device.isHouse) continue
    const often = (perMinute: number, fault: () => void): void => repeat(world, perMinute, fault)
    often(o.cutsPerMinute, () => device.connection && world.cut(device.connection))
    often(o.freezesPerMinute, () => freeze(world, device))
    often(o.pausesPerMinute, () => pause(world, device))
    often(o.deviceLossesPerMinute, () => device.do({ type: 'device-lost', detail: 'sim' }))
    often(o.reloadsPerMinute, () => device.reload())
    if (random.float() < o.vanish) {
      const isSilent = random.float() < o.silent
      world.after(random.float() * o.faultMs, () => vanish(device, isSilent))
    }
  }
  repeat(world, o.crashesPerMinute, () => world.crash(random.int(100, 5_000)))
  // Clocks are set, machines are suspended: forwards and backwards.
  repeat(world, o.clockJumpsPerMinute, () => {
    world.skew += random.int(-60_000, 60_000)
  })
  // The last devices that vanished come back as others, or nothing could ever end.
  world.at(o.faultMs + 1, () => {
    world.skew = Math.max(world.skew, 0)
    for (const device of devices) {
      device.thaw()
      if (!device.isDead) {
        device.do({ type: 'resumed' })
        device.do({ type: 'moved-here' })
      }
    }
    // An ordinary unit is 100 tokens.
    const useful = devices.filter(
      (d) => !d.isDead && !d.isHostile && !d.strategy && 100 * d.speed * o.units < HALF_HOUR,
    )
    const isJudged = useful.some((d) => d.isTrusted || d.isHouse) || o.trust.every((t) => t === 'fast')
    if (useful.length === 0 || !isJudged) world.revive(o.trusted > 0)
  })
}

/** A Poisson process while faults last. */
function repeat(world: World, perMinute: number, fault: () => void): void {
  if (perMinute <= 0) return
  const next = (): void => {
    const ms = (-Math.log(1 - world.random.float()) * 60_000) / perMinute
    world.after(ms, () => {
      if (!world.isFaulty) return
      fault()
      next()
    })
  }
  next()
}

function freeze(world: World, device: Device): void {
  if (device.isFrozen || device.isDead) return
  // Some browsers say so first, others just stop.
  if (world.random.float() < 0.5) device.do({ type: 'frozen' })
  device.isFrozen = true
  world.after(world.random.int(500, 40_000), () => device.thaw())
}

function pause(world: World, device: Device): void {
  device.do({ type: 'paused', finish: world.random.float() < 0.5 })
  world.after(world.random.int(500, 20_000), () => device.do({ type: 'resumed' }))
}

function vanish(device: Device, isSilent: boolean): void {
  if (device.isDead) return
  if (!isSilent) device.hangUp(1001)
  device.isDead = true
}
