// Golden vectors: how they are read, and what counts as the same answer. No dependency, for Node and browsers alike.

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, float16: Uint16Array, int8: Int8Array, uint8: Uint8Array, int16: Int16Array,
  uint16: Uint16Array, int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array, uint64: BigUint64Array, bool: Uint8Array,
};
const TINY = 2 ** -126;

/** Returns { type, dims, data } of a tensor of golden.json; `buffer` holds golden.bin. */
export function tensor(entry, buffer) {
  const kind = ARRAYS[entry.dtype];
  return { type: entry.dtype, dims: entry.shape, data: new kind(buffer, entry.offset, entry.bytes / kind.BYTES_PER_ELEMENT) };
}

/** Returns { name: make(type, data, dims) } of tensors of golden.json. */
export function feeds(entries, buffer, make) {
  return Object.fromEntries(entries.map((entry) => {
    const { type, data, dims } = tensor(entry, buffer);
    return [entry.name, make(type, data, dims)];
  }));
}

/** Returns max|got - stated| / max|stated|; infinite for another shape or type, another NaN, another integer. */
export function errorOf(got, stated) {
  const same = got.type === stated.type && got.dims.length === stated.dims.length && got.dims.every((d, i) => d === stated.dims[i]);
  if (!same || got.data.length !== stated.data.length) return Infinity;
  if (!stated.type.startsWith("float")) return got.data.every((value, i) => value === stated.data[i]) ? 0 : Infinity;
  const [read, wanted] = [reader(got), reader(stated)];
  let worst = 0, largest = 0;
  for (let i = 0; i < stated.data.length; i++) {
    const a = read(i), b = wanted(i);
    if (!Number.isFinite(b) || !Number.isFinite(a)) {
      if (!Object.is(a, b)) return Infinity;
      continue;
    }
    worst = Math.max(worst, Math.abs(a - b));
    largest = Math.max(largest, Math.abs(b));
  }
  return worst > 0 ? worst / Math.max(largest, TINY) : 0;
}

/** Replays every vector; returns the largest error of each output. `run` takes feeds and returns tensors by name. */
export async function replay(index, buffer, run, make) {
  const errors = {};
  for (const vector of index.vectors) {
    const got = await run(feeds(vector.inputs, buffer, make));
    for (const entry of vector.outputs) {
      errors[entry.name] = Math.max(errors[entry.name] ?? 0, errorOf(got[entry.name], tensor(entry, buffer)));
    }
  }
  return errors;
}

/** JSON has no infinity: it becomes null. */
export const finite = (errors) => Object.fromEntries(Object.entries(errors).map(([k, v]) => [k, Number.isFinite(v) ? v : null]));

const reader = ({ type, data }) => (type === "float16" && data instanceof Uint16Array ? (i) => half(data[i]) : (i) => Number(data[i]));

function half(bits) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023, sign = bits >> 15 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24);
}
