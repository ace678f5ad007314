/** Writes .tflite models of fully connected layers. Slots: tensorflow/compiler/mlir/lite/schema/schema.fbs (version 3). */

import { bool, flatbuffer, i32, i8, table, tables, text, u32, u8, vector } from './flatbuffer.ts'
import type { Table } from './flatbuffer.ts'

const TYPE = { f32: 0, i32: 2, i8: 9 }
const FULLY_CONNECTED = 9
const FULLY_CONNECTED_OPTIONS = 8

export interface TensorSpec {
  name: string
  type: keyof typeof TYPE
  shape: readonly number[]
  /** Constant contents. */
  data?: Int8Array
  /** One scale, or one per channel of dimension 0; zero points are 0. */
  scales?: Float32Array
}

/** `copies` fully connected layers over one input, each with its own weights [n, k] and its own output. */
export function fullyConnected(
  input: TensorSpec,
  weights: TensorSpec[],
  outputs: TensorSpec[],
): Uint8Array<ArrayBuffer> {
  const buffers: Table[] = [{}]
  const tensor = (spec: TensorSpec): Table => {
    let buffer = 0
    if (spec.data !== undefined) {
      buffer = buffers.length
      buffers.push({ 0: vector(spec.data) })
    }
    const made: Table = {
      0: vector(Int32Array.from(spec.shape)),
      1: i8(TYPE[spec.type]),
      2: u32(buffer),
      3: text(spec.name),
    }
    const { scales } = spec
    if (scales !== undefined) {
      made[4] = table({ 2: vector(scales), 3: vector(new BigInt64Array(scales.length)), 6: i32(0) })
    }
    return made
  }
  const tensors = [input, ...weights, ...outputs].map(tensor)
  const operators = weights.map((_, i): Table => ({
    0: u32(0),
    1: vector(Int32Array.of(0, 1 + i, -1)),
    2: vector(Int32Array.of(1 + weights.length + i)),
    3: u8(FULLY_CONNECTED_OPTIONS),
    4: table({ 3: bool(false) }),
  }))
  const graph: Table = {
    0: tables(tensors),
    1: vector(Int32Array.of(0)),
    2: vector(Int32Array.from(outputs, (_, i) => 1 + weights.length + i)),
    3: tables(operators),
    4: text('main'),
  }
  const model: Table = {
    0: u32(3),
    1: tables([{ 0: i8(FULLY_CONNECTED), 2: i32(9), 3: i32(FULLY_CONNECTED) }]),
    2: tables([graph]),
    3: text('chorale-bench'),
    4: tables(buffers),
  }
  return flatbuffer(model, 'TFL3')
}
