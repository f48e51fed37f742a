/**
 * X.509 certificates for the demo and the tests, made with nothing but node:crypto: a certificate
 * authority on P-256 and the server certificates it signs, good ones and expired ones alike.
 *
 * For trying things out only. A real server gets its certificate from a real authority.
 */
import { createHash, generateKeyPairSync, randomBytes, sign } from 'node:crypto';
import { isIP } from 'node:net';

const DAY_MS = 86_400_000;

/**
 * @typedef {object} Validity
 * @property {Date} [notBefore] default: a day ago
 * @property {Date} [notAfter] default: in 30 days
 * @property {boolean} [client] whether a certificate serves a client as well
 */

/**
 * @typedef {object} Authority all in PEM text
 * @property {string} certificate what a client trusts (`tlsCa`)
 * @property {(names: string[], validity?: Validity) => { certificate: string, key: string }} issue makes a
 *   server's certificate and key for DNS names and IP addresses
 * @property {(name: string) => Authority} intermediate makes an authority that this one vouches for
 */

/**
 * Makes a new certificate authority.
 *
 * @param {string} [name] its common name
 * @param {Validity} [validity]
 * @returns {Authority}
 */
export function createAuthority(name = 'smartvpn test authority', validity = {}) {
  return authorityOf(name, validity);
}

/** An authority whose certificate it signs itself, or the one above it does. */
function authorityOf(name, validity, above) {
  const ca = generateKeyPairSync('ec', { namedCurve: 'prime256v1' });
  const caId = keyId(ca.publicKey);
  const issuer = distinguishedName(name);
  const certify = (subject, publicKey, lifetime, extensions) =>
    pem(certificate({ issuer, subject, publicKey, signingKey: ca.privateKey, lifetime, extensions }));

  return {
    certificate: (above ?? certify)(issuer, ca.publicKey, validity, [
      extension('2.5.29.19', sequence(BOOLEAN_TRUE), { critical: true }), // basicConstraints: a CA
      extension('2.5.29.15', bitString([0x06], 1), { critical: true }), // keyUsage: certificates, CRLs
      extension('2.5.29.14', octetString(caId)), // subjectKeyIdentifier
    ]),
    intermediate: (itsName) => authorityOf(itsName, validity, certify),
    issue(names, lifetime = {}) {
      const leaf = generateKeyPairSync('ec', { namedCurve: 'prime256v1' });
      const extensions = leafExtensions(names, leaf.publicKey, caId, lifetime);
      return {
        certificate: certify(distinguishedName(names[0]), leaf.publicKey, lifetime, extensions),
        key: leaf.privateKey.export({ type: 'pkcs8', format: 'pem' }),
      };
    },
  };
}

/** Makes a server's certificate that nobody but its own key vouches for, and that key. */
export function createSelfSigned(names, lifetime = {}) {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'prime256v1' });
  const subject = distinguishedName(names[0]);
  const extensions = leafExtensions(names, publicKey, keyId(publicKey), lifetime);
  return {
    certificate: pem(
      certificate({ issuer: subject, subject, publicKey, signingKey: privateKey, lifetime, extensions }),
    ),
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }),
  };
}

function leafExtensions(names, publicKey, issuerId, { client }) {
  return [
    extension('2.5.29.15', bitString([0x80], 7), { critical: true }), // keyUsage: digitalSignature
    extension('2.5.29.37', sequence(...(client ? [SERVER_AUTH, CLIENT_AUTH] : [SERVER_AUTH]))), // extKeyUsage
    extension('2.5.29.17', sequence(...names.map(alternativeName))), // subjectAltName
    extension('2.5.29.14', octetString(keyId(publicKey))),
    extension('2.5.29.35', sequence(tlv(0x80, issuerId))), // authorityKeyIdentifier
  ];
}

// -- X.509 (RFC 5280 §4.1) ------------------------------------------------------------------------

function certificate({ issuer, subject, publicKey, signingKey, lifetime, extensions }) {
  const { notBefore = new Date(Date.now() - DAY_MS), notAfter = new Date(Date.now() + 30 * DAY_MS) } =
    lifetime;
  const algorithm = sequence(oid('1.2.840.10045.4.3.2')); // ecdsa-with-SHA256
  const toBeSigned = sequence(
    tlv(0xa0, integer([2])), // version 3
    integer([0x01, ...randomBytes(15)]), // serial number, positive by its first byte
    algorithm,
    issuer,
    sequence(time(notBefore), time(notAfter)),
    subject,
    publicKey.export({ type: 'spki', format: 'der' }),
    tlv(0xa3, sequence(...extensions)),
  );
  return sequence(toBeSigned, algorithm, bitString(sign('sha256', toBeSigned, signingKey)));
}

function distinguishedName(commonName) {
  return sequence(tlv(0x31, sequence(oid('2.5.4.3'), tlv(0x0c, Buffer.from(commonName)))));
}

function extension(id, value, { critical = false } = {}) {
  return sequence(oid(id), critical ? BOOLEAN_TRUE : Buffer.alloc(0), octetString(value));
}

/** A GeneralName: iPAddress or dNSName. */
function alternativeName(name) {
  switch (isIP(name)) {
    case 4:
      return tlv(0x87, Buffer.from(name.split('.').map(Number)));
    case 6:
      return tlv(0x87, ipv6Bytes(name));
    default:
      return tlv(0x82, Buffer.from(name));
  }
}

function ipv6Bytes(address) {
  const [head, tail] = address.split('::').map((half) => (half ? half.split(':') : []));
  const gap = tail === undefined ? [] : Array(8 - head.length - tail.length).fill('0');
  return Buffer.from(
    [...head, ...gap, ...(tail ?? [])].map((group) => group.padStart(4, '0')).join(''),
    'hex',
  );
}

/** SHA-1 of the public key, as RFC 5280 §4.2.1.2 suggests for key identifiers. */
function keyId(publicKey) {
  return createHash('sha1')
    .update(publicKey.export({ type: 'spki', format: 'der' }))
    .digest();
}

function pem(der) {
  const lines = der.toString('base64').match(/.{1,64}/g);
  return ['-----BEGIN CERTIFICATE-----', ...lines, '-----END CERTIFICATE-----', ''].join('\n');
}

// -- DER (X.690) ----------------------------------------------------------------------------------

const BOOLEAN_TRUE = Buffer.from([0x01, 0x01, 0xff]);
const SERVER_AUTH = oid('1.3.6.1.5.5.7.3.1');
const CLIENT_AUTH = oid('1.3.6.1.5.5.7.3.2');

function tlv(tag, value) {
  const content = Buffer.from(value);
  return Buffer.concat([Buffer.from([tag, ...lengthBytes(content.length)]), content]);
}

function lengthBytes(length) {
  if (length < 0x80) return [length];
  return length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
}

function sequence(...parts) {
  return tlv(0x30, Buffer.concat(parts));
}

function integer(bytes) {
  return tlv(0x02, bytes);
}

function octetString(bytes) {
  return tlv(0x04, bytes);
}

function bitString(bytes, unusedBits = 0) {
  return tlv(0x03, [unusedBits, ...bytes]);
}

function oid(dotted) {
  const [first, second, ...rest] = dotted.split('.').map(Number);
  return tlv(0x06, [first * 40 + second, ...rest.flatMap(base128)]);
}

function base128(number) {
  const bytes = [number & 0x7f];
  for (let rest = number >>> 7; rest > 0; rest >>>= 7) bytes.unshift((rest & 0x7f) | 0x80);
  return bytes;
}

/** UTCTime until 2049, GeneralizedTime from then on, as RFC 5280 §4.1.2.5 wants. */
function time(date) {
  const digits = `${date.toISOString().replace(/[-:T]/g, '').slice(0, 14)}Z`;
  return date.getUTCFullYear() < 2050
    ? tlv(0x17, Buffer.from(digits.slice(2)))
    : tlv(0x18, Buffer.from(digits));
}
