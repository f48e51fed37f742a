/** What somebody who ends TLS can do to the frames within (PROTOCOL §2): each way makes messages that must end a session. */
import { randomBytes, randomInt } from 'node:crypto';

import { frame, OPCODE } from './websocket.mjs';

const HEADER = 5;
const NONCE = 24;
const TAG = 16;

const TYPE = { packet: 0x10, bundle: 0x11, keepalive: 0x20, resume: 0x30, disconnect: 0x3f };
const TYPES = [0x01, 0x02, 0x03, 0x10, 0x11, 0x20, 0x21, 0x30, 0x31, 0x32, 0x3f, 0x40, 0x41];

/** More than any message may have. */
const TOO_LONG = 300_000;

/** The inner frames of a message. */
export function innerFrames(message) {
  const frames = [];
  for (let at = 0; at < message.length;) {
    const end = at + HEADER + message.readUInt32BE(at + 1);
    frames.push(message.subarray(at, end));
    at = end;
  }
  return frames;
}

function inner(type, payload) {
  const header = Buffer.alloc(HEADER);
  header[0] = type;
  header.writeUInt32BE(payload.length, 1);
  return Buffer.concat([header, payload]);
}

/** A copy with one bit of the bytes from `begin` to `end` turned over. */
function flip(bytes, begin, end) {
  const copy = Buffer.from(bytes);
  copy[randomInt(begin, end)] ^= 1 << randomInt(8);
  return copy;
}

const pick = (list) => list[randomInt(list.length)];

/** A binary message, made by the end that the receiver takes its maker for. */
const binary = (payload, masked) => frame(OPCODE.binary, payload, { masked });

/**
 * Ways to change or forge one frame. Each gets the frame, whether the receiver is the server, and what a forged packet
 * would be, and returns bytes of a WebSocket connection.
 *
 * @type {Record<string, (genuine: Buffer, isUp: boolean, packet: Buffer) => Buffer>}
 */
export const FORGERIES = {
  'a bit of the type': (genuine, isUp) => binary(flip(genuine, 0, 1), isUp),
  'a bit of the length': (genuine, isUp) => binary(flip(genuine, 1, HEADER), isUp),
  'a bit of the nonce': (genuine, isUp) => binary(flip(genuine, HEADER, HEADER + NONCE), isUp),
  'a bit of the ciphertext': (genuine, isUp) =>
    binary(flip(genuine, HEADER + NONCE, genuine.length - TAG), isUp),
  'a bit of the tag': (genuine, isUp) => binary(flip(genuine, genuine.length - TAG, genuine.length), isUp),
  'a bit anywhere': (genuine, isUp) => binary(flip(genuine, 0, genuine.length), isUp),
  'another type': (genuine, isUp) => {
    const copy = Buffer.from(genuine);
    copy[0] = pick(TYPES.filter((type) => type !== genuine[0]));
    return binary(copy, isUp);
  },
  'a shorter payload': (genuine, isUp) =>
    binary(inner(genuine[0], genuine.subarray(HEADER, -randomInt(1, TAG))), isUp),
  'a longer payload': (genuine, isUp) =>
    binary(inner(genuine[0], Buffer.concat([genuine.subarray(HEADER), randomBytes(randomInt(1, 64))])), isUp),
  'an end in the middle': (genuine, isUp) => binary(genuine.subarray(0, randomInt(1, genuine.length)), isUp),
  'bytes after the end': (genuine, isUp) =>
    binary(Buffer.concat([genuine, randomBytes(randomInt(1, HEADER))]), isUp),
  'a plain Disconnect': (_, isUp) =>
    binary(
      inner(TYPE.disconnect, Buffer.from(JSON.stringify({ code: 'kicked', message: 'Go away.' }))),
      isUp,
    ),
  'a forged Disconnect': (_, isUp) => binary(inner(TYPE.disconnect, randomBytes(randomInt(42, 1_064))), isUp),
  'a forged SessionResume': (_, isUp) => binary(inner(TYPE.resume, randomBytes(randomInt(50, 600))), isUp),
  'a forged Keepalive': (_, isUp) => binary(inner(TYPE.keepalive, randomBytes(48)), isUp),
  'a packet in the clear': (_, isUp, packet) => binary(inner(TYPE.packet, packet), isUp),
  'random bytes': (_, isUp) => binary(randomBytes(randomInt(1, 2_000)), isUp),
  'a text message': (genuine, isUp) =>
    frame(OPCODE.text, Buffer.from(genuine.toString('hex')), { masked: isUp }),
  'an empty message': (_, isUp) => binary(Buffer.alloc(0), isUp),
  'a message that is too long': (genuine, isUp) =>
    frame(OPCODE.binary, genuine, { masked: isUp, announced: TOO_LONG }),
};

/** After this nothing more can be told apart in the stream. */
export const SWALLOWING = 'a message that is too long';

/** Ways that need the frames around: what is sent instead of two messages in a row. */
export const REORDERINGS = ['twice', 'swapped', 'dropped', 'reflected'];

/**
 * An IPv4 packet with a UDP datagram that nobody has sent. Its checksums are right or absent.
 *
 * @param {{ from: string, to: string, port: number }} options
 */
export function forgedPacket({ from, to, port }) {
  const payload = randomBytes(64);
  const packet = Buffer.alloc(28 + payload.length);
  packet[0] = 0x45;
  packet.writeUInt16BE(packet.length, 2);
  packet[8] = 64;
  packet[9] = 17;
  for (const [at, address] of [
    [12, from],
    [16, to],
  ]) {
    Buffer.from(address.split('.').map(Number)).copy(packet, at);
  }
  let sum = 0;
  for (let at = 0; at < 20; at += 2) sum += packet.readUInt16BE(at);
  packet.writeUInt16BE(~((sum & 0xffff) + (sum >> 16)) & 0xffff, 10);
  packet.writeUInt16BE(port, 20);
  packet.writeUInt16BE(port, 22);
  packet.writeUInt16BE(8 + payload.length, 24);
  payload.copy(packet, 28);
  return packet;
}
