/** Programs that speak WireGuard in user space: one way to set them up for all. */
import { spawnSync } from 'node:child_process';

import { findProgram, missingPrograms, versionOf } from './programs.mjs';
import { TUNNEL, UPLINK } from './site.mjs';

const PORT = 51820;
const INTERFACE = 'wg0';

/** Waits for the program's socket, gives it its keys, and its interface an address. */
const SET_UP = `
for try in $(seq 2000); do [ -S /var/run/wireguard/${INTERFACE}.sock ] && break; sleep 0.005; done
"$0" setconf ${INTERFACE} "$1"
ip addr add "$2/${TUNNEL.prefix}" dev ${INTERFACE}
ip link set ${INTERFACE} mtu ${TUNNEL.mtu} up
`;

/**
 * @param {string} name
 * @param {string} program
 * @param {string[]} args besides the interface
 * @param {object} env
 * @returns {import('./peers.mjs').Peer}
 */
export function wireguard(name, program, args, env) {
  const argv = () => [findProgram(program), ...args, INTERFACE];
  return {
    name,
    kind: 'tunnel',
    find: () => missingPrograms([program, 'wg']),
    version: () => versionOf(findProgram(program)),
    async start(site) {
      const keys = { server: keypair(), client: keypair() };
      const server = site.startServer(argv(), env);
      await setUp(site, site.server, TUNNEL.server, [
        '[Interface]', `PrivateKey = ${keys.server.secret}`, `ListenPort = ${PORT}`,
        '[Peer]', `PublicKey = ${keys.client.open}`, `AllowedIPs = ${TUNNEL.client}/32`,
      ]); // prettier-ignore
      await site.listens(site.server, server, 'udp', PORT);
      const client = site.startClient(argv(), env);
      await setUp(site, site.client, TUNNEL.client, [
        '[Interface]', `PrivateKey = ${keys.client.secret}`,
        '[Peer]', `PublicKey = ${keys.server.open}`, `Endpoint = ${UPLINK.server}:${PORT}`,
        `AllowedIPs = ${TUNNEL.network}/${TUNNEL.prefix}`,
      ]); // prettier-ignore
      return site.tunnel({ client: [client], server: [server] });
    },
  };
}

async function setUp(site, host, address, lines) {
  const file = await site.put(host, 'wg.conf', `${lines.join('\n')}\n`);
  await host.exec(['sh', '-ec', SET_UP, findProgram('wg'), file, address]);
}

function keypair() {
  const secret = wg(['genkey']);
  return { secret, open: wg(['pubkey'], secret) };
}

function wg(args, input) {
  const { stdout } = spawnSync(findProgram('wg'), args, { input, encoding: 'utf8', timeout: 5_000 });
  return stdout.trim();
}
