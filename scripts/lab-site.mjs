/**
 * The network that the demo and the tests use:
 *
 *     client 10.90.1.2 ─┐
 *     client 10.90.2.2 ─┤ internet ── 10.90.0.2 server 203.0.113.1 ── 203.0.113.2 web
 *
 * `web` knows its own network only. It can answer the server, and a client only when the server
 * translates the client's address. `internet` routes between clients and server and has no way to
 * `web`, so what reaches `web` came through the tunnel. All links have IPv6 as well.
 */
import { Lab } from './lab.mjs';

export const SERVER = {
  address: '10.90.0.2',
  address6: 'fd90::2',
  public: '203.0.113.1',
  public6: '2001:db8:113::1',
};
export const WEB = {
  address: '203.0.113.2',
  address6: '2001:db8:113::2',
  network: '203.0.113.0/24',
  network6: '2001:db8:113::/64',
};

/**
 * @param {{ clients?: number }} [options] how many client hosts
 * @returns {Promise<Site>}
 */
export async function openSite({ clients = 1 } = {}) {
  const lab = await Lab.open();
  try {
    return await build(lab, clients);
  } catch (error) {
    await lab.close();
    throw error;
  }
}

/**
 * @typedef {object} Site
 * @property {Lab} lab
 * @property {import('./lab.mjs').Host} internet
 * @property {import('./lab.mjs').Host} server
 * @property {import('./lab.mjs').Host} web
 * @property {import('./lab.mjs').Host[]} clients
 */

async function build(lab, clientCount) {
  const { internet } = lab;
  const names = Array.from({ length: clientCount }, (_, index) => `client-${index + 1}`);
  const [server, web, ...clients] = await Promise.all(
    ['server', 'web', ...names].map((name) => lab.host(name)),
  );
  await internet.sh(`
    echo 1 > /proc/sys/net/ipv4/ip_forward
    [ ! -d /proc/sys/net/ipv6 ] || echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
  `);
  await Promise.all([
    uplink(lab, server, 0),
    ...clients.map((client, index) => uplink(lab, client, index + 1)),
    lab.cable(
      { host: server, name: 'lan', addresses: [`${SERVER.public}/24`, `${SERVER.public6}/64`] },
      { host: web, name: 'eth0', addresses: [`${WEB.address}/24`, `${WEB.address6}/64`] },
    ),
  ]);
  return { lab, internet, server, web, clients };
}

/** Gives a host an interface `eth0` to the internet and the default routes through it. */
async function uplink(lab, host, network) {
  const [prefix, prefix6] = [`10.90.${network}`, network === 0 ? 'fd90:' : `fd90:${network}:`];
  await lab.cable(
    { host, name: 'eth0', addresses: [`${prefix}.2/24`, `${prefix6}:2/64`] },
    { host: lab.internet, name: `port${network}`, addresses: [`${prefix}.1/24`, `${prefix6}:1/64`] },
  );
  await host.ip([`route add 0.0.0.0/0 via ${prefix}.1`, `route add ::/0 via ${prefix6}:1`]);
}
