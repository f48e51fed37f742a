'use strict';

const { readFileSync } = require('node:fs');

/** IPv4 networks as numbers: which are in use on this host, and which is free. */

/** Every IPv4 route of this network namespace, of all tables. */
const ROUTES = '/proc/net/fib_trie';

/** What a route covers that says nothing about which networks are in use. */
const DEFAULT_ROUTE_LENGTH = 1;

/** @typedef {{ address: number, length: number }} Network */

/** `10.8.0.0/24` as numbers; `undefined` if it is none. */
function parseNetwork(text) {
  const [, address, length] = /^(\d+\.\d+\.\d+\.\d+)\/(\d+)$/.exec(text) ?? [];
  const octets = address?.split('.').map(Number) ?? [];
  if (octets.length !== 4 || octets.some((octet) => octet > 255) || Number(length) > 32) return undefined;
  return { address: octets.reduce((number, octet) => number * 256 + octet, 0), length: Number(length) };
}

/** @param {Network} network */
function formatNetwork({ address, length }) {
  const octets = [24, 16, 8, 0].map((shift) => (address >>> shift) & 255);
  return `${octets.join('.')}/${length}`;
}

function overlaps(a, b) {
  const shift = 32 - Math.min(a.length, b.length);
  const prefix = ({ address }) => Math.floor(address / 2 ** shift);
  return prefix(a) === prefix(b);
}

/**
 * The networks that routes of this host lead to, but for the default routes.
 *
 * @param {string} [table] the kernel's text, read unless given
 * @returns {Network[]}
 */
function usedNetworks(table = readRoutes()) {
  const networks = [];
  let leaf;
  for (const line of table.split('\n')) {
    leaf = /\|-- (\d+\.\d+\.\d+\.\d+)/.exec(line)?.[1] ?? leaf;
    const [, length] = /^\s+\/(\d+) /.exec(line) ?? [];
    if (leaf === undefined || length === undefined || Number(length) <= DEFAULT_ROUTE_LENGTH) continue;
    networks.push(parseNetwork(`${leaf}/${length}`));
  }
  return networks;
}

function readRoutes() {
  try {
    return readFileSync(ROUTES, 'utf8');
  } catch {
    // Without it nothing is known to be in use; the server says so if a network is (`subnet-conflict`).
    return '';
  }
}

/**
 * A private /24 that no route of this host overlaps: near 10.8.0.0, which is what people expect of a
 * VPN, then wherever.
 *
 * @param {Network[]} [used]
 * @returns {string | undefined}
 */
function freeSubnet(used = usedNetworks()) {
  for (const candidate of candidates()) {
    if (!used.some((network) => overlaps(network, candidate))) return formatNetwork(candidate);
  }
  return undefined;
}

function* candidates() {
  for (let step = 0; step < 256; step++) yield parseNetwork(`10.${(8 + step) % 256}.0.0/24`);
  for (let net = 16; net < 32; net++) yield parseNetwork(`172.${net}.0.0/24`);
  for (let net = 0; net < 256; net++) yield parseNetwork(`192.168.${net}.0/24`);
  for (let net = 0; net < 65_536; net++) yield parseNetwork(`10.${net >> 8}.${net & 255}.0/24`);
}

module.exports = { formatNetwork, freeSubnet, overlaps, parseNetwork, usedNetworks };
