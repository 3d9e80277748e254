// NumPy's .npz files, in Node.js and in browsers: {name: {type, dims, data}}, types as ONNX Runtime names them.
// What is not here: Fortran order, big-endian numbers, zip64.

const TYPES = {
  "<f4": ["float32", Float32Array], "<f8": ["float64", Float64Array], "<i4": ["int32", Int32Array],
  "<i8": ["int64", BigInt64Array], "|u1": ["uint8", Uint8Array], "|b1": ["bool", Uint8Array],
};

const word = (bytes, at, size) => { // little-endian
  let x = 0;
  for (let i = size - 1; i >= 0; i--) x = x * 256 + bytes[at + i];
  return x;
};
const text = (bytes, at, size) => new TextDecoder().decode(bytes.subarray(at, at + size));

// ---------------------------------------------------------------- reading

function readNpy(bytes, name) {
  const wide = bytes[6] > 1, start = wide ? 12 : 10, length = word(bytes, 8, wide ? 4 : 2);
  const header = text(bytes, start, length);
  const [, descr] = header.match(/'descr': '([^']*)'/) ?? [], [, shape] = header.match(/'shape': \(([^)]*)\)/) ?? [];
  if (!TYPES[descr] || shape === undefined || /'fortran_order': True/.test(header))
    throw new Error(`${name}: cannot read arrays like ${header.trim()}`);
  const [type, Values] = TYPES[descr];
  return { type, dims: shape.split(",").filter(s => s.trim()).map(Number), data: new Values(bytes.slice(start + length).buffer) };
}

// A zip holds raw deflate streams; with a head and a tail they are gzip, which every runtime reads.
async function inflate(packed, crcAndSize) {
  const head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
  const stream = new Blob([new Uint8Array(head), packed, crcAndSize]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export async function readNpz(buffer) {
  const bytes = new Uint8Array(buffer), arrays = {};
  let end = bytes.length - 22; // the end record, perhaps with a comment behind it
  while (end >= 0 && word(bytes, end, 4) !== 0x06054b50) end--;
  if (end < 0) throw new Error("not an .npz file");
  for (let n = word(bytes, end + 10, 2), at = word(bytes, end + 16, 4); n > 0; n--) {
    const method = word(bytes, at + 10, 2), size = word(bytes, at + 20, 4), local = word(bytes, at + 42, 4);
    const name = text(bytes, at + 46, word(bytes, at + 28, 2));
    const data = local + 30 + word(bytes, local + 26, 2) + word(bytes, local + 28, 2);
    const packed = bytes.subarray(data, data + size), sums = new Uint8Array(8);
    sums.set(bytes.subarray(at + 16, at + 20), 0), sums.set(bytes.subarray(at + 24, at + 28), 4);
    arrays[name.replace(/\.npy$/, "")] = readNpy(method === 8 ? await inflate(packed, sums) : packed, name);
    at += 46 + word(bytes, at + 28, 2) + word(bytes, at + 30, 2) + word(bytes, at + 32, 2);
  }
  return arrays;
}

// ---------------------------------------------------------------- writing: stored, not deflated

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});
const crc32 = bytes => ~bytes.reduce((crc, b) => CRC[(crc ^ b) & 255] ^ (crc >>> 8), -1) >>> 0;

const record = (...fields) => fields.flatMap(([size, x]) => Array.from({ length: size }, (_, i) => Math.floor(x / 256 ** i) & 255));

function npy({ type, dims, data }) {
  const descr = Object.keys(TYPES).find(d => TYPES[d][0] === type);
  if (!descr) throw new Error(`cannot write ${type}`);
  const shape = `(${dims.join(", ")}${dims.length === 1 ? "," : ""})`;
  let header = `{'descr': '${descr}', 'fortran_order': False, 'shape': ${shape}, }`;
  header += " ".repeat(63 - (10 + header.length) % 64) + "\n";
  const head = [0x93, ...new TextEncoder().encode("NUMPY"), 1, 0, ...record([2, header.length]), ...new TextEncoder().encode(header)];
  const body = new Uint8Array(data.buffer, data.byteOffset, data.byteLength), bytes = new Uint8Array(head.length + body.length);
  bytes.set(head), bytes.set(body, head.length);
  return bytes;
}

export function writeNpz(arrays) {
  const parts = [], directory = [];
  let at = 0;
  for (const [name, array] of Object.entries(arrays)) {
    const file = new TextEncoder().encode(`${name}.npy`), bytes = npy(array);
    const common = [[2, 20], [2, 0x800], [2, 0], [4, 0x210000], [4, crc32(bytes)], [4, bytes.length], [4, bytes.length],
      [2, file.length], [2, 0]];
    directory.push(Uint8Array.from([...record([4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]), ...file]));
    parts.push(Uint8Array.from([...record([4, 0x04034b50], ...common), ...file]), bytes);
    at += parts.at(-2).length + bytes.length;
  }
  const size = directory.reduce((n, d) => n + d.length, 0), n = directory.length;
  const end = Uint8Array.from(record([4, 0x06054b50], [2, 0], [2, 0], [2, n], [2, n], [4, size], [4, at], [2, 0]));
  return new Blob([...parts, ...directory, end]).arrayBuffer();
}
