// Blobs: base64 in a <script> element → gzip → header and typed arrays (glossator.atlas.pack).

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

async function unpack(id) {
  const element = document.getElementById(id);
  const packed = bytesOf(element.textContent.trim());
  element.remove(); // the text is as large as all the data
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const types = { Uint8Array, Uint16Array, Uint32Array, BigUint64Array, Float32Array };
  const data = { ...header.meta };
  for (const { name, type, offset, length: n } of header.arrays) {
    data[name] = new types[`${type}Array`](buffer, 4 + length + offset, n);
  }
  return data;
}

// Planes of bytes, lowest first, back to integers.
function joinPlanes(planes, n) {
  const out = new Uint32Array(n);
  for (let p = 0; p * n < planes.length; p++) {
    for (let i = 0; i < n; i++) out[i] |= planes[p * n + i] << (8 * p);
  }
  return out;
}

// Where each entry's share of a flat array begins, and where the last one ends.
function bounds(counts) {
  const out = new Uint32Array(counts.length + 1);
  for (let i = 0; i < counts.length; i++) out[i + 1] = out[i] + counts[i];
  return out;
}
