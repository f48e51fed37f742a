/**
 * The state of a host that a VPN could change: addresses, routes, rules, firewall, kernel settings
 * and resolvers, and the VPN's own notes of what it has to undo. What changes by itself (counters,
 * lifetimes) is left out.
 */
import { STATE_DIR } from './lab.mjs';

/** Every setting below these is compared. */
const SETTINGS = '/proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf /proc/sys/net/ipv4/ip_forward';

/** The parts, each printed by one command; a missing one (no nft, no IPv6) is empty. */
const parts = () => ({
  addresses: 'ip -j address',
  routes: 'ip -j -4 route show table all',
  routes6: 'ip -j -6 route show table all',
  rules: 'ip -j -4 rule',
  rules6: 'ip -j -6 rule',
  firewall: 'nft -j list ruleset',
  // The file and whose it is, where a link leads to, and what lies beside it.
  resolvers: "cat /etc/resolv.conf; stat -c '%N %A %u:%g' /etc/resolv.conf; ls -A /etc | grep resolv",
  settings: `grep -rs . ${SETTINGS}`,
  // The folder of addresses given is to stay: a next start honours them.
  journals: `ls ${STATE_DIR} | grep -vE '^(lock|leases|clients)$'`,
});

const SEPARATOR = '\u001e';

/**
 * Reads the state of a host, in parts.
 *
 * @param {import('./lab.mjs').Host} host
 */
export async function readHostState(host) {
  const script = Object.values(parts()).map(
    (command) => `${command} 2>/dev/null || true; printf '${SEPARATOR}'`,
  );
  const { stdout } = await host.sh(script.join('\n'));
  const texts = stdout.split(SEPARATOR);
  const state = Object.fromEntries(Object.keys(parts()).map((part, index) => [part, texts[index]]));
  return {
    addresses: json(state.addresses).map(address),
    routes: json(state.routes).map(withoutFlux),
    routes6: json(state.routes6).map(withoutFlux),
    rules: json(state.rules),
    rules6: json(state.rules6),
    firewall: (json(state.firewall).nftables ?? []).filter((item) => !item.metainfo).map(withoutFlux),
    resolvers: state.resolvers,
    settings: lines(state.settings),
    journals: lines(state.journals),
  };
}

/**
 * What differs between two states of a host, a line each: `- routes: …` is gone, `+ routes: …` new.
 * Settings of an interface that is gone or new are left out, as they come and go with it.
 */
export function differences(before, after) {
  const kept = interfaces(before).filter((name) => interfaces(after).includes(name));
  return Object.keys(before).flatMap((part) => {
    const [old, now] = [before, after].map((state) => entries(part, state[part], kept));
    return [
      ...old.filter((entry) => !now.includes(entry)).map((entry) => `- ${part}: ${entry}`),
      ...now.filter((entry) => !old.includes(entry)).map((entry) => `+ ${part}: ${entry}`),
    ];
  });
}

function interfaces({ addresses }) {
  return ['all', 'default', ...addresses.map(({ ifname }) => ifname)];
}

function entries(part, value, kept) {
  const texts = [value].flat().map((entry) => (typeof entry === 'string' ? entry : JSON.stringify(entry)));
  if (part !== 'settings') return texts;
  return texts.filter((text) => {
    const name = /\/conf\/([^/]+)\//.exec(text)?.[1];
    return name === undefined || kept.includes(name);
  });
}

function json(text) {
  return text.trim() === '' ? [] : JSON.parse(text);
}

function lines(text) {
  return text.split('\n').filter(Boolean).toSorted();
}

function address({ ifname, mtu, flags, addr_info }) {
  const addresses = addr_info.map(({ local, prefixlen, scope }) => `${local}/${prefixlen} ${scope}`);
  return { ifname, mtu, flags, addresses };
}

/** The value without members that count or run down. */
function withoutFlux(value) {
  if (Array.isArray(value)) return value.map(withoutFlux);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([key]) => !['packets', 'bytes', 'expires', 'cache'].includes(key))
      .map(([key, inner]) => [key, withoutFlux(inner)]),
  );
}
