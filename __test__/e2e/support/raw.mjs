/** Packets byte by byte, as no program of good manners sends them, and the way to send them. */
import { isIPv6 } from 'node:net';

/** A file of each host's own. */
const FILE = '/run/lab/packets';

/** Protocol numbers. */
export const TCP = 6;
export const UDP = 17;
/** For experiments (RFC 3692): a protocol without ports. */
export const OTHER = 253;

const FLAGS = { SYN: 0x02, SYN_ACK: 0x12 };

/**
 * An IP packet around a payload.
 *
 * @param {{ from: string, to: string, protocol?: number, payload?: Buffer }} options
 */
export function packet({ from, to, protocol = UDP, payload = Buffer.alloc(0) }) {
  if (isIPv6(to)) {
    const header = Buffer.alloc(40);
    header[0] = 0x60;
    header.writeUInt16BE(payload.length, 4);
    header.set([protocol, 64], 6);
    header.set([...bytesOf(from), ...bytesOf(to)], 8);
    return Buffer.concat([header, payload]);
  }
  const header = Buffer.alloc(20);
  header[0] = 0x45;
  header.writeUInt16BE(20 + payload.length, 2);
  header.set([64, protocol], 8);
  header.set([...bytesOf(from), ...bytesOf(to)], 12);
  header.writeUInt16BE(checksum(header), 10);
  return Buffer.concat([header, payload]);
}

/**
 * A UDP datagram in a packet.
 *
 * @param {{ from: string, to: string, sport?: number, dport?: number, data?: Buffer }} options
 */
export function datagram({ from, to, sport = 4000, dport = 9, data = Buffer.alloc(172, 0x5a) }) {
  const payload = Buffer.concat([Buffer.alloc(8), data]);
  payload.writeUInt16BE(sport, 0);
  payload.writeUInt16BE(dport, 2);
  payload.writeUInt16BE(payload.length, 4);
  return withChecksum({ from, to, protocol: UDP, payload }, 6);
}

/**
 * A TCP segment without data in a packet.
 *
 * @param {{ from: string, to: string, sport?: number, dport: number, flags?: keyof FLAGS }} options
 */
export function segment({ from, to, sport = 4000, dport, flags = 'SYN' }) {
  const payload = Buffer.alloc(20);
  payload.writeUInt16BE(sport, 0);
  payload.writeUInt16BE(dport, 2);
  payload.writeUInt32BE(1_000_000, 4);
  payload.set([0x50, FLAGS[flags], 0x20], 12);
  return withChecksum({ from, to, protocol: TCP, payload }, 16);
}

/** An echo request in a packet. */
export function echoRequest({ from, to }) {
  const v6 = isIPv6(to);
  const payload = Buffer.alloc(64, 0x5a);
  payload.set([v6 ? 128 : 8, 0, 0, 0]);
  if (v6) return withChecksum({ from, to, protocol: 58, payload }, 2);
  payload.writeUInt16BE(checksum(payload), 2);
  return packet({ from, to, protocol: 1, payload });
}

/** A neighbour solicitation in a packet: who has `target`? */
export function solicitation({ from, target }) {
  const address = bytesOf(target);
  const group = Buffer.from('ff0200000000000000000001ff000000', 'hex');
  group.set(address.subarray(13), 13);
  const payload = Buffer.alloc(24);
  payload[0] = 135;
  payload.set(address, 8);
  const solicited = group.toString('hex').match(/.{4}/g).join(':');
  const whole = withChecksum({ from, to: solicited, protocol: 58, payload }, 2);
  whole[7] = 255; // the hop limit, which proves that it comes from a neighbour
  return whole;
}

/** A packet in an Ethernet frame. */
export function frame({ from, to, packet: content }) {
  const type = content[0] >> 4 === 6 ? 0x86dd : 0x0800;
  return Buffer.concat([mac(to), mac(from), Buffer.from([type >> 8, type & 0xff]), content]);
}

/** An ARP request in an Ethernet frame, to everybody unless told: who has `target`? */
export function arpRequest({ from, sender, target, to = 'ff:ff:ff:ff:ff:ff' }) {
  const head = Buffer.from('08060001080006040001', 'hex');
  return Buffer.concat([
    mac(to), mac(from), head, mac(from), bytesOf(sender), Buffer.alloc(6), bytesOf(target), Buffer.alloc(18),
  ]); // prettier-ignore
}

/**
 * Sends packets out of an interface, each as it is: into a TUN whole IP packets, else frames. The order is kept among
 * those of one length.
 *
 * @param {import('../../../scripts/lab.mjs').Host} host
 * @param {string} device
 * @param {Buffer[]} packets
 */
export async function inject(host, device, packets) {
  const lengths = new Set(packets.map((bytes) => bytes.length));
  for (const length of lengths) {
    const same = packets.filter((bytes) => bytes.length === length);
    // Of a file, other than of a pipe, each read is as long as it is meant to be.
    const copy = `cat > ${FILE}; socat -u -b ${length} OPEN:${FILE} INTERFACE:${device}; rm ${FILE}`;
    await host.sh(copy, { input: Buffer.concat(same) });
  }
}

/** The ports of a packet of TCP or UDP. */
export function portsOf(bytes) {
  const at = bytes[0] >> 4 === 6 ? 40 : (bytes[0] & 0x0f) * 4;
  return { source: bytes.readUInt16BE(at), destination: bytes.readUInt16BE(at + 2) };
}

/** The hardware address of an interface. */
export async function macOf(host, device) {
  return (await host.exec(['cat', `/sys/class/net/${device}/address`])).stdout.trim();
}

function mac(text) {
  return Buffer.from(text.replaceAll(':', ''), 'hex');
}

function withChecksum(options, at) {
  const { from, to, protocol, payload } = options;
  const tail = Buffer.alloc(8);
  tail.writeUInt32BE(payload.length, 0);
  tail[7] = protocol;
  payload.writeUInt16BE(checksum(Buffer.concat([bytesOf(from), bytesOf(to), tail, payload])) || 0xffff, at);
  return packet(options);
}

/** The internet checksum (RFC 1071) of an even number of bytes. */
function checksum(bytes) {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += bytes.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return ~sum & 0xffff;
}

function bytesOf(address) {
  if (!isIPv6(address)) return Buffer.from(address.split('.').map(Number));
  const [head, tail] = address.split('::').map((part) => part.split(':').filter(Boolean));
  const zeros = tail === undefined ? [] : Array(8 - head.length - tail.length).fill('0');
  const words = [...head, ...zeros, ...(tail ?? [])];
  return Buffer.from(words.map((word) => word.padStart(4, '0')).join(''), 'hex');
}
