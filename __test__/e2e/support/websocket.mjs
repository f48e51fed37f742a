/** WebSocket frames (RFC 6455 §5.2), read and made one by one. */
import { randomBytes } from 'node:crypto';

export const OPCODE = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 };

/** Frames with payloads of at least so many bytes have a longer header. */
const [MEDIUM, LARGE] = [126, 65_536];

/** Takes a stream of bytes apart. */
export class FrameReader {
  #held = Buffer.alloc(0);

  /**
   * @param {Buffer} bytes the next of the stream
   * @returns {Generator<{ fin: boolean, opcode: number, payload: Buffer }>} what is whole; payloads are unmasked
   */
  *read(bytes) {
    this.#held = this.#held.length === 0 ? bytes : Buffer.concat([this.#held, bytes]);
    for (;;) {
      const header = readHeader(this.#held);
      if (!header || this.#held.length < header.end) return;
      const payload = Buffer.from(this.#held.subarray(header.begin, header.end));
      if (header.mask) applyMask(payload, header.mask);
      this.#held = this.#held.subarray(header.end);
      yield { fin: header.fin, opcode: header.opcode, payload };
    }
  }
}

function readHeader(bytes) {
  if (bytes.length < 2) return null;
  const [first, second] = bytes;
  const short = second & 0x7f;
  const extended = { 126: 2, 127: 8 }[short] ?? 0;
  const isMasked = second >= 0x80;
  const begin = 2 + extended + (isMasked ? 4 : 0);
  if (bytes.length < begin) return null;
  const length = extended === 0 ? short : Number(BigInt(`0x${bytes.toString('hex', 2, 2 + extended)}`));
  const mask = isMasked && bytes.subarray(begin - 4, begin);
  return { fin: first >= 0x80, opcode: first & 0x0f, mask, begin, end: begin + length };
}

function applyMask(payload, mask) {
  for (let at = 0; at < payload.length; at++) payload[at] ^= mask[at & 3];
}

/**
 * Makes a frame.
 *
 * @param {number} opcode
 * @param {Buffer} payload
 * @param {{ masked: boolean, fin?: boolean, announced?: number }} options `announced` is the length in the header, the
 *   payload's own unless given
 */
export function frame(opcode, payload, { masked, fin = true, announced = payload.length }) {
  const header = Buffer.alloc(10);
  header[0] = (fin ? 0x80 : 0) | opcode;
  let length = 2;
  if (announced < MEDIUM) header[1] = announced;
  else if (announced < LARGE) {
    header[1] = 126;
    length = header.writeUInt16BE(announced, 2);
  } else {
    header[1] = 127;
    length = header.writeBigUInt64BE(BigInt(announced), 2);
  }
  if (!masked) return Buffer.concat([header.subarray(0, length), payload]);
  header[1] |= 0x80;
  const mask = randomBytes(4);
  const hidden = Buffer.from(payload);
  applyMask(hidden, mask);
  return Buffer.concat([header.subarray(0, length), mask, hidden]);
}

/** Gathers frames to messages; control frames stand alone. */
export class MessageReader {
  #frames = new FrameReader();
  #opcode;
  #parts = [];

  /** @returns {Generator<{ opcode: number, payload: Buffer }>} */
  *read(bytes) {
    for (const { fin, opcode, payload } of this.#frames.read(bytes)) {
      if (opcode >= OPCODE.close) {
        yield { opcode, payload };
        continue;
      }
      if (opcode !== OPCODE.continuation) this.#opcode = opcode;
      this.#parts.push(payload);
      if (fin) yield { opcode: this.#opcode, payload: Buffer.concat(this.#parts.splice(0)) };
    }
  }
}
