/** Secrets stay where they belong, whatever goes wrong, with all that can be logged being logged. */
import assert from 'node:assert/strict';
import { createPrivateKey, randomBytes } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { describe, it } from 'node:test';
import { inspect } from 'node:util';

import { Daemon } from '../../scripts/lab-remote.mjs';
import {
  authority,
  clientConfig,
  keypair,
  missingDaemon,
  PORT,
  requires,
  SERVER,
  serverConfig,
  STATE_DIR,
  TUNNEL,
  useSite,
} from './support/site.mjs';
import { eventually, reaches } from './support/traffic.mjs';

const PROXY_PORT = 3128;

/** Longer than any id, address, digest or public key is: a ticket, or a hello that holds one. */
const LONG_BASE64 = /[\w+/=-]{80,}/g;

// Agents and daemons are children of this process.
process.env.RUST_LOG = 'trace';

for (const transport of ['inprocess', 'stdio', 'socket']) {
  const skip = requires() || (transport === 'inprocess' ? false : missingDaemon());

  describe(`over ${transport}`, { skip }, () => {
    const site = useSite();

    it('no secret is shown or left behind', async () => {
      const password = randomBytes(12).toString('hex');
      const token = randomBytes(12).toString('hex');
      const keys = keypair();
      const clientKeys = keypair();
      const { certificate, key } = authority.issue([SERVER.address]);
      const clients = [{ id: 'one', publicKey: clientKeys.publicKey }];
      const config = serverConfig({ ...keys, tlsCert: certificate, tlsKey: key, clients });
      const mine = clientConfig({
        serverPublicKey: keys.publicKey,
        privateKey: clientKeys.privateKey,
        token,
        reconnect: { baseDelayMs: 100, maxDelayMs: 200 },
      });
      const told = [];
      const fails = (promise) =>
        promise.then(
          () => assert.fail('it must fail'),
          (error) => told.push([error.code, error.message, error.stack, inspect(error, { depth: 9 })]),
        );

      const server = await engine(site.server, 'server');
      const client = await engine(site.client, 'client');
      // What a configuration can have wrong beside a secret, or in it.
      await fails(server.vpn.start({ ...config, privateKey: keypair().privateKey }));
      await fails(server.vpn.start({ ...config, privateKey: `${keys.privateKey}=` }));
      await fails(server.vpn.start({ ...config, publicKey: keys.privateKey }));
      await fails(server.vpn.start({ ...config, subnet: 'nonsense' }));
      await fails(server.vpn.start({ ...config, tlsCert: key }));
      await fails(server.vpn.start({ ...config, tlsKey: key.replaceAll('\n', ' ') }));
      await fails(server.vpn.start({ ...config, privatekey: keys.privateKey }));
      await server.vpn.start(config);
      await fails(client.vpn.connect({ ...mine, token: `${token} ` }));
      await fails(client.vpn.connect({ ...mine, privateKey: `${clientKeys.privateKey}=` }));
      await fails(client.vpn.connect({ ...mine, privateKey: undefined }));
      await fails(server.vpn.addClient({ id: 'two', publicKey: clientKeys.privateKey, privateKey: token }));
      await fails(server.vpn.addClient({ id: 'two', publicKey: clientKeys.privateKey + ' ' }));
      await fails(client.vpn.connect({ ...mine, proxy: `socks5://me:${password}@${SERVER.address}:1` }));
      await fails(client.vpn.connect({ ...mine, serverUrl: `wss://me:${password}@${SERVER.address}/` }));
      // A port that refuses, and a server that is no proxy.
      await fails(
        client.vpn.connect({ ...mine, proxy: `http://me:${password}@${SERVER.address}:${PROXY_PORT}` }),
      );
      await fails(client.vpn.connect({ ...mine, proxy: `http://me:${password}@${SERVER.address}:${PORT}` }));
      await fails(client.vpn.connect({ ...mine, serverPublicKey: keypair().publicKey }));
      await fails(client.vpn.connect({ ...mine, tlsCa: undefined }));

      // A session that is resumed by its ticket, and its end.
      await client.vpn.connect(mine);
      assert.equal(await reaches(site.client, TUNNEL.server), true);
      client.vpn.forget();
      await server.vpn.stopServer();
      await client.vpn.event('status', ({ state }) => state === 'reconnecting');
      await server.vpn.start(config);
      await client.vpn.event('status', ({ state }) => state === 'connected');
      await server.vpn.event('client-resumed');
      const [{ clientId }] = await server.vpn.listClients();
      for (const [vpn, method, ...args] of [
        [server.vpn, 'getStatus'],
        [server.vpn, 'getStatistics'],
        [server.vpn, 'listClients'],
        [server.vpn, 'listRegisteredClients'],
        [server.vpn, 'getClientTelemetry', clientId],
        [client.vpn, 'getStatus'],
        [client.vpn, 'getStatistics'],
        [client.vpn, 'getConnectionQuality'],
        [client.vpn, 'getMtuInfo'],
      ]) {
        told.push(await vpn[method](...args));
      }
      const kept = await Promise.all(
        [site.server, site.client].map((host) => host.sh(`find ${STATE_DIR} -type f -exec cat {} +`)),
      );
      const processes = environments();
      await server.vpn.disconnectClient(clientId);
      await eventually(async () => assert.equal((await client.vpn.getStatus()).lastErrorCode, 'kicked'));

      const places = {
        'answers and errors': JSON.stringify(told),
        events: JSON.stringify([server.vpn.events, client.vpn.events]),
        'standard streams': [server, client].map((end) => end.printed()).join('\n'),
        files: kept.map(({ stdout }) => stdout).join('\n'),
        'arguments and environments': processes,
      };
      const secrets = {
        'the private key': Buffer.from(keys.privateKey, 'base64'),
        'the client’s private key': Buffer.from(clientKeys.privateKey, 'base64'),
        'the TLS key': Buffer.from(createPrivateKey(key).export({ format: 'jwk' }).d, 'base64url'),
        'the TLS key in PEM': Buffer.from(key.split('\n')[1]),
        'the password': Buffer.from(password),
        'the token': Buffer.from(token),
      };
      for (const [place, text] of Object.entries(places)) {
        assert.ok(text.length > 100, `${place}: ${text}`);
        for (const [secret, bytes] of Object.entries(secrets)) {
          for (const [form, pattern] of Object.entries(formsOf(bytes))) {
            assert.ok(!text.includes(pattern), `${secret} (${form}) is in ${place}`);
          }
        }
        if (place === 'arguments and environments') continue;
        const long = text.match(LONG_BASE64)?.filter((word) => !word.includes('/node_modules/'));
        assert.deepEqual(long ?? [], [], `what could be a ticket is in ${place}`);
      }
    });

    /** A client or server, with all that its processes print. */
    const engine = async (host, mode) => {
      const daemon = transport === 'socket' ? await Daemon.start(host, mode) : undefined;
      if (daemon) site.adopt(asProgram(daemon));
      const agent = await site.agent(host);
      const options = { transport: daemon ? { transport, socketPath: daemon.socketPath } : { transport } };
      const vpn = await (mode === 'server' ? agent.server(options) : agent.startedClient(options));
      return { vpn, printed: () => agent.stdout + agent.stderr + (daemon?.output ?? '') + '.'.repeat(101) };
    };
  });
}

/** How a secret could be written. */
function formsOf(bytes) {
  return {
    hex: bytes.toString('hex'),
    base64: bytes.toString('base64').replace(/=+$/, ''),
    base64url: bytes.toString('base64url'),
    'as it is': bytes.toString('latin1'),
    'as a list': [...bytes].join(','),
    'as a printed list': [...bytes].join(', '),
  };
}

/** The arguments and environments of all processes but this one's own. */
function environments() {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && name !== String(process.pid))
    .flatMap((pid) => ['cmdline', 'environ'].map((file) => read(`/proc/${pid}/${file}`)))
    .join('\n');
}

function read(file) {
  try {
    return readFileSync(file, 'latin1');
  } catch {
    return ''; // it has ended meanwhile
  }
}

/** A daemon as what {@link useSite} closes. */
function asProgram(daemon) {
  let running = true;
  daemon.ended.then(() => (running = false));
  return {
    get running() {
      return running;
    },
    get stderr() {
      return daemon.output;
    },
    close: () => daemon.close().then(() => daemon.ended),
  };
}
