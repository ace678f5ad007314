/**
 * Writes ONNX models by hand, so that a peer can be given exactly our weights in exactly its favourite operators.
 * Field numbers: onnx/onnx.proto3 (IR version 10).
 */

import { bytesField, concat, floatField, intField, messageField, textField } from './protobuf.ts'
import type { Part } from './protobuf.ts'

export type Dtype = 'f32' | 'u8' | 'i8' | 'i32' | 'i64' | 'bool' | 'f16'
const DTYPE: Record<Dtype, number> = { f32: 1, u8: 2, i8: 3, i32: 6, i64: 7, bool: 9, f16: 10 }

export type TensorData = Float32Array | Uint8Array | Int8Array | Int32Array | BigInt64Array | Uint16Array

/** Numbers are floats when written `{ float }`; a bare number or list of numbers is an int. */
export type Attribute =
  number | string | readonly number[] | { float: number } | { floats: readonly number[] }

/** `'batch'` stands for a dimension known only at run time. */
export type Dims = readonly (number | string)[]

const ATTRIBUTE = { float: 1, int: 2, string: 3, floats: 6, ints: 7 }

function attribute(name: string, value: Attribute): Part {
  const parts: Part[] = [textField(1, name)]
  if (typeof value === 'number') parts.push(intField(3, value), intField(20, ATTRIBUTE.int))
  else if (typeof value === 'string') parts.push(textField(4, value), intField(20, ATTRIBUTE.string))
  else if ('float' in value) parts.push(floatField(2, value.float), intField(20, ATTRIBUTE.float))
  else if ('floats' in value)
    parts.push(...value.floats.map((x) => floatField(7, x)), intField(20, ATTRIBUTE.floats))
  else parts.push(...value.map((x) => intField(8, x)), intField(20, ATTRIBUTE.ints))
  return messageField(5, parts)
}

function valueInfo(field: number, name: string, dtype: Dtype, dims: Dims): Part {
  const shape = dims.map((d) => messageField(1, [typeof d === 'number' ? intField(1, d) : textField(2, d)]))
  const tensor = [intField(1, DTYPE[dtype]), messageField(2, shape)]
  return messageField(field, [textField(1, name), messageField(2, [messageField(1, tensor)])])
}

/** The fused operators of ONNX Runtime live in this domain. */
export const MICROSOFT = 'com.microsoft'

/** A graph under construction. Every method that makes a value returns its name. */
export class OnnxGraph {
  readonly #parts: Part[] = []
  #names = 0

  #fresh(prefix: string): string {
    return `${prefix}_${this.#names++}`
  }

  input(name: string, dtype: Dtype, dims: Dims): string {
    this.#parts.push(valueInfo(11, name, dtype, dims))
    return name
  }

  /** Declares `value`, already made by a node under this very name, as an output. */
  output(value: string, dtype: Dtype, dims: Dims): void {
    this.#parts.push(valueInfo(12, value, dtype, dims))
  }

  constant(dtype: Dtype, dims: readonly number[], data: TensorData, name = this.#fresh('w')): string {
    const raw = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    const header = [...dims.map((d) => intField(1, d)), intField(2, DTYPE[dtype]), textField(8, name)]
    this.#parts.push(messageField(5, [...header, bytesField(9, raw)]))
    return name
  }

  i64(values: readonly number[], dims: readonly number[] = [values.length]): string {
    return this.constant('i64', dims, BigInt64Array.from(values, BigInt))
  }

  f32(values: readonly number[], dims: readonly number[] = [values.length]): string {
    return this.constant('f32', dims, Float32Array.from(values))
  }

  /** A node; `outputs` is how many, or what they are called ('' leaves an optional one out). */
  nodes(
    op: string,
    inputs: readonly string[],
    outputs: number | readonly string[],
    attributes: Record<string, Attribute> = {},
    domain = '',
  ): string[] {
    const made =
      typeof outputs === 'number' ? Array.from({ length: outputs }, () => this.#fresh(op)) : [...outputs]
    this.#parts.push(
      messageField(1, [
        ...inputs.map((name) => textField(1, name)),
        ...made.map((name) => textField(2, name)),
        textField(3, this.#fresh(`n_${op}`)),
        textField(4, op),
        ...Object.entries(attributes).map(([name, value]) => attribute(name, value)),
        ...(domain === '' ? [] : [textField(7, domain)]),
      ]),
    )
    return made
  }

  /** A node with one output. */
  node(
    op: string,
    inputs: readonly string[],
    attributes: Record<string, Attribute> = {},
    domain = '',
    output?: string,
  ): string {
    return this.nodes(op, inputs, output === undefined ? 1 : [output], attributes, domain)[0]!
  }

  /** The finished file. */
  bytes(): Uint8Array<ArrayBuffer> {
    const opset = (domain: string, version: number) =>
      messageField(8, [textField(1, domain), intField(2, version)])
    return concat([
      intField(1, 10),
      textField(2, 'chorale-bench'),
      opset('', 20),
      opset(MICROSOFT, 1),
      messageField(7, [textField(2, 'graph'), ...this.#parts]),
    ])
  }
}
