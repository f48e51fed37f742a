/** The daemon of this checkout, or the one that SMARTVPN_BENCH_DAEMON names. */
import { accessSync, constants } from 'node:fs';
import { generateKeyPairSync } from 'node:crypto';
import { resolve } from 'node:path';

import platform from '../../lib/platform.js';
import { FOLDER, TUNNEL, UPLINK } from '../site.mjs';
import { versionOf } from '../programs.mjs';

const PORT = 8443;

/** @type {import('../peers.mjs').Peer} */
export default {
  name: 'smartvpn',
  kind: 'tunnel',
  find() {
    try {
      accessSync(daemon(), constants.X_OK);
      return null;
    } catch (error) {
      return error.message;
    }
  },
  version: () => versionOf(daemon()),
  async start(site) {
    const keys = keypair();
    const common = { mtu: TUNNEL.mtu, stateDir: null };
    await site.put(
      site.server,
      'config.json',
      JSON.stringify({
        listenAddr: `${UPLINK.server}:${PORT}`,
        ...keys,
        subnet: `${TUNNEL.network}/${TUNNEL.prefix}`,
        tlsCert: `${FOLDER}/own.crt`,
        tlsKey: `${FOLDER}/own.key`,
        ...common,
      }),
    );
    await site.put(
      site.client,
      'config.json',
      JSON.stringify({
        serverUrl: `wss://${UPLINK.server}:${PORT}/`,
        serverPublicKey: keys.publicKey,
        tlsCa: `${FOLDER}/ca.crt`,
        ...common,
      }),
    );
    const argv = (mode) => [daemon(), '--config', `${FOLDER}/config.json`, '--mode', mode];
    const server = site.startServer(argv('server'));
    await site.listens(site.server, server, 'tcp', PORT);
    const client = site.startClient(argv('client'));
    return site.tunnel({ client: [client], server: [server] });
  },
};

function daemon() {
  const { SMARTVPN_BENCH_DAEMON: given } = process.env;
  return given ? resolve(given) : platform.findDaemon();
}

function keypair() {
  const { x, d } = generateKeyPairSync('x25519').privateKey.export({ format: 'jwk' });
  const [publicKey, privateKey] = [x, d].map((text) => Buffer.from(text, 'base64url').toString('base64'));
  return { publicKey, privateKey };
}
