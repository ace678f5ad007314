import { attention } from './attention.ts'
import { digest } from './digest.ts'
import { embed } from './embed.ts'
import { gather } from './gather.ts'
import { heads } from './heads.ts'
import { layernormQuant } from './layernorm_quant.ts'
import { linear } from './linear.ts'
import { pool } from './pool.ts'
import { quant } from './quant.ts'
import { rmsnormQuant } from './rmsnorm_quant.ts'
import { sample } from './sample.ts'

/** Every kernel there is: what backends implement and tests iterate. */
export const kernels = { embed, digest, gather, rmsnorm_quant: rmsnormQuant, layernorm_quant: layernormQuant, quant, linear, heads, attention, pool, sample } // prettier-ignore
export type KernelName = keyof typeof kernels
