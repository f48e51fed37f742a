/**
 * What `VpnClient` and `VpnServer` promise, over every transport: the same tests, with the engine in
 * the process, in a daemon that is its child, and in a daemon that runs already.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { assertFails } from './support/assert.mjs';
import {
  clientConfig,
  keypair,
  missingDaemon,
  requires,
  SERVER,
  serverConfig,
  TUNNEL,
  useSite,
  WEB,
} from './support/site.mjs';
import { eventually, interfaceWith, reaches } from './support/traffic.mjs';

const TRANSPORTS = ['inprocess', 'stdio', 'socket'];

const CLIENT_METHODS = [
  'connect',
  'disconnect',
  'getStatus',
  'getStatistics',
  'getConnectionQuality',
  'getMtuInfo',
];
const SERVER_CALLS = {
  stopServer: [],
  getStatus: [],
  getStatistics: [],
  listClients: [],
  disconnectClient: ['c1'],
  generateKeypair: [],
  setClientRateLimit: ['c1', 1e6, 65536],
  removeClientRateLimit: ['c1'],
  getClientTelemetry: ['c1'],
  addClient: [{ id: 'c1', publicKey: 'key' }],
  updateClient: ['c1', { disabled: true }],
  removeClient: ['c1'],
  listRegisteredClients: [],
  createInvite: [],
};

for (const transport of TRANSPORTS) {
  const skip = requires() || (transport === 'inprocess' ? false : missingDaemon());

  describe(`a client over ${transport}`, { skip }, () => {
    const site = useSite({ transport });

    it('rejects not-running unless it is started', async () => {
      const agent = await site.agent(site.client);
      const vpn = await agent.client({ config: clientConfig() });
      for (const method of CLIENT_METHODS) await assertFails(vpn[method](), 'not-running', 'start()');
      assert.equal(await running(vpn), false);
      assert.equal(await vpn.start(), true);
      assert.equal(await vpn.start(), true);
      assert.equal(await running(vpn), true);
      await vpn.close();
      assert.equal(await running(vpn), false);
      for (const method of CLIENT_METHODS) await assertFails(vpn[method](), 'not-running', 'start()');
    });

    it('that has no tunnel says so', async () => {
      const vpn = await (await site.agent(site.client)).startedClient();
      assert.equal((await vpn.getStatus()).state, 'disconnected');
      assert.equal((await vpn.getStatistics()).bytesSent, 0);
      await assertFails(vpn.getConnectionQuality(), 'not-connected');
      await assertFails(vpn.getMtuInfo(), 'not-connected');
      await vpn.disconnect();
      await assertFails(vpn.connect(), 'invalid-config', /no configuration/);
    });

    it('connects, tells of it, counts, and disconnects', async () => {
      await site.serve({ subnet6: TUNNEL.subnet6 });
      const { vpn, config, assignedIp, assignedIp6 } = await site.connect({ keepaliveIntervalSecs: 5 });
      assert.match(assignedIp, /^10\.8\.0\.\d+$/);
      assert.match(assignedIp6, /^fd08::/);
      await vpn.event('status', ({ state }) => state === 'connected');
      assert.deepEqual(states(vpn), ['connecting', 'handshaking', 'connected']);
      const status = await vpn.getStatus();
      assert.deepEqual(status, vpn.seen('status').at(-1));
      assert.deepEqual([status.assignedIp, status.assignedIp6], [assignedIp, assignedIp6]);
      assert.equal(status.serverAddr, `${SERVER.address}:8443`);
      assert.ok(Math.abs(Date.now() - Date.parse(status.connectedSince)) < 30_000);

      assert.equal(await reaches(site.client, WEB.address), true);
      const quality = await vpn.event('quality');
      assert.deepEqual(
        Object.keys(await vpn.getConnectionQuality()).toSorted(),
        Object.keys(quality).toSorted(),
      );
      const statistics = await vpn.getStatistics();
      assert.ok(statistics.packetsSent >= 3 && statistics.bytesReceived >= 3 * 84);
      assert.ok(statistics.quality.srttMs >= 0);
      const mtu = await vpn.getMtuInfo();
      assert.equal(mtu.tunMtu, 1420);
      assert.equal(mtu.overheadBytes, 79);

      await assertFails(vpn.connect(config), 'already-connected', 'disconnect()');
      assert.equal(await reaches(site.client, TUNNEL.server), true);
      await vpn.disconnect();
      await vpn.disconnect();
      assert.equal((await vpn.getStatus()).state, 'disconnected');
      await vpn.event('status', ({ state }) => state === 'disconnected');
      assert.equal(await interfaceWith(site.client, assignedIp), undefined);
      assert.ok((await vpn.connect()).assignedIp, 'with the configuration it had');
    });

    it('says what is wrong with a configuration, and where', async () => {
      const vpn = await (await site.agent(site.client)).startedClient();
      for (const [members, path] of [
        [{ mtu: 1 }, 'mtu'],
        [{ mtu: '1420' }, 'mtu'],
        [{ serverUrl: 'http://x/' }, 'serverUrl'],
        [{ serverPublicKey: 'x' }, 'serverPublicKey'],
        [{ dns: ['localhost'] }, 'dns[0]'],
        [{ reconnect: { baseDelayMs: -1 } }, 'reconnect.baseDelayMs'],
        [{ tunName: 'a/b' }, 'tunName'],
        [{ keepAliveIntervalSecs: 5 }, 'keepAliveIntervalSecs'],
      ]) {
        const error = await assertFails(
          vpn.connect(clientConfig(members)),
          'invalid-config',
          path.split('[')[0],
        );
        assert.equal(error.path, path);
      }
      assert.equal((await vpn.getStatus()).state, 'disconnected');
    });

    it('refuses wrong arguments', async () => {
      const vpn = await (await site.agent(site.client)).startedClient();
      await assertFails(vpn.connect(clientConfig(), { signal: 'now' }), 'invalid-argument', 'signal');
      await assertFails(vpn.connect(clientConfig(), { timeout: 1 }), 'invalid-argument', 'timeout');
      await assertFails(vpn.connect('ws://x/'), 'invalid-config', 'object');
    });

    it('says why there is no way to the server', async () => {
      const vpn = await (await site.agent(site.client)).startedClient();
      await assertFails(vpn.connect(clientConfig()), 'connection-refused');
      await site.serve();
      await assertFails(
        vpn.connect(clientConfig({ serverPublicKey: keypair().publicKey })),
        'server-key-mismatch',
      );
      const untrusting = clientConfig();
      delete untrusting.tlsCa;
      await assertFails(vpn.connect(untrusting), 'tls-untrusted');
      await vpn.event('status', ({ state }) => state === 'disconnected');
      await vpn.connect(clientConfig());
    });

    it('ends a connect() that is under way: by disconnect(), a signal, stop()', async () => {
      await silence(site);
      const agent = await site.agent(site.client);
      const vpn = await agent.startedClient();
      const connecting = assertFails(vpn.connect(clientConfig()), 'aborted');
      await vpn.event('status', ({ state }) => state === 'connecting');
      await assertFails(vpn.connect(clientConfig()), 'already-connected');
      await vpn.disconnect();
      await connecting;
      assert.equal((await vpn.getStatus()).state, 'disconnected');

      const aborting = agent.run(connectAndAbort, clientConfig());
      const error = await assertFails(aborting, 'aborted');
      assert.equal(error.cause.message, 'changed my mind');
      assert.equal((await vpn.getStatus()).state, 'disconnected');

      vpn.forget();
      const stopped = assertFails(vpn.connect(clientConfig()), 'aborted');
      await vpn.event('status', ({ state }) => state === 'connecting');
      assert.ok((await agent.run(stopTwice)) < 100);
      await stopped;
      await vpn.close();
      assert.deepEqual(
        vpn.seen('exit').map(({ code, signal, error: failure }) => [code, signal, failure]),
        [[0, null, undefined]],
      );
    });

    it('comes back by itself after its server does', async () => {
      const server = await site.serve();
      const { vpn, assignedIp } = await site.connect({
        reconnect: { baseDelayMs: 50, maxDelayMs: 200 },
        routes: ['0.0.0.0/0'],
      });
      vpn.forget();
      await server.vpn.stopServer();
      const lost = await vpn.event('status', ({ state }) => state === 'reconnecting');
      assert.equal(lost.lastErrorCode, 'shutting-down');
      assert.ok(await interfaceWith(site.client, assignedIp));
      await server.vpn.start();
      await vpn.event('status', ({ state }) => state === 'connected');
      await eventually(async () => assert.equal(await reaches(site.client, WEB.address), true));
      const lines = vpn.seen('log').filter(({ message }) => message.includes('next attempt'));
      assert.ok(lines.length > 0);
      for (const { level, target, time } of lines) {
        assert.deepEqual([level, target], ['info', 'reconnect']);
        assert.ok(!Number.isNaN(Date.parse(time)));
      }
      assert.equal(vpn.seen('exit').length, 0);
    });

    it('gives up when it is told to, and says so once', async () => {
      const server = await site.serve();
      const { vpn, assignedIp } = await site.connect({
        reconnect: { baseDelayMs: 20, maxDelayMs: 50, maxAttempts: 2 },
      });
      await server.vpn.stopServer();
      const status = await vpn.event('status', ({ state }) => state === 'error');
      assert.equal(status.lastErrorCode, 'connection-refused');
      assert.deepEqual(await vpn.getStatus(), status);
      assert.equal(await interfaceWith(site.client, assignedIp), undefined);
      assert.equal(vpn.seen('status').filter(({ state }) => state === 'error').length, 1);
      assert.equal(vpn.seen('exit').length, 0, 'the engine runs');
    });

    it('takes no more than a thousand calls at once', async () => {
      const agent = await site.agent(site.client);
      await agent.startedClient();
      assert.deepEqual(await agent.run(askTooOften), { fulfilled: 1000, 'invalid-argument': 1 });
    });

    it('holds the process while it is connected, until it is closed', async () => {
      await site.serve();
      const { agent } = await site.connect();
      await agent.release();
      await sleep(500);
      assert.equal(agent.running, true);
      await agent.run(({ vpns }) => void vpns.values().next().value.close());
      assert.deepEqual(await agent.ended, { code: 0, signal: null }, agent.stderr);
    });

    it('lets the process end when it is unref()ed, or merely started', async () => {
      await site.serve();
      const { agent } = await site.connect({ routes: ['0.0.0.0/0'] });
      await agent.run(({ vpns }) => void vpns.values().next().value.unref());
      const idle = await site.agent(site.client);
      await idle.startedClient();
      for (const each of [agent, idle]) {
        await each.release();
        assert.deepEqual(await each.ended, { code: 0, signal: null }, each.stderr);
      }
    });

    it('is closed by stop(), close() and disposal alike, with one exit each', async () => {
      const agent = await site.agent(site.client);
      const vpn = await agent.client();
      for (const end of ['close', 'dispose', 'stop']) {
        vpn.forget();
        await vpn.start();
        await agent.run(endBy, end);
        await vpn.close();
        assert.deepEqual(
          vpn.events.map(({ name, args }) => [name, args]),
          [['exit', [{ code: 0, signal: null }]]],
          end,
        );
      }
    });
  });

  describe(`a server over ${transport}`, { skip }, () => {
    const site = useSite({ transport });

    it('rejects not-running unless it is started', async () => {
      const vpn = await (await site.agent(site.server)).server();
      for (const [method, args] of Object.entries(SERVER_CALLS)) {
        await assertFails(vpn[method](...args), 'not-running', 'start()');
      }
      assert.equal(await running(vpn), false);
    });

    it('without a VPN makes keys, and knows no clients', async () => {
      const vpn = await (await site.agent(site.server)).server();
      await vpn.start();
      await vpn.start();
      assert.equal(await running(vpn), true);
      const { publicKey, privateKey } = await vpn.generateKeypair();
      assert.deepEqual(
        [publicKey, privateKey].map((key) => Buffer.from(key, 'base64').length),
        [32, 32],
      );
      assert.equal((await vpn.getStatus()).state, 'disconnected');
      assert.deepEqual(await vpn.listClients(), []);
      assert.equal((await vpn.getStatistics()).activeClients, 0);
      await vpn.stopServer();
      await assertFails(vpn.disconnectClient('c1'), /not-connected|unknown-client/);
    });

    it('serves, is told of its clients, and kicks them', async () => {
      const { vpn, config } = await site.serve();
      await vpn.event('status', ({ state }) => state === 'connected');
      assert.deepEqual(states(vpn), ['connecting', 'connected']);
      const status = await vpn.getStatus();
      assert.deepEqual([status.assignedIp, status.serverAddr], [TUNNEL.server, `${SERVER.address}:8443`]);
      await assertFails(vpn.start(config), 'already-running', /stop/);

      const client = await site.connect({ name: 'laptop' });
      const info = await vpn.event('client-connected');
      assert.deepEqual([info.name, info.assignedIp], ['laptop', client.assignedIp]);
      assert.equal(await reaches(site.client, TUNNEL.server), true);
      const [listed] = await vpn.listClients();
      assert.equal(listed.clientId, info.clientId);
      const telemetry = await vpn.getClientTelemetry(info.clientId);
      assert.ok(telemetry.bytesReceived >= 3 * 84);
      const { activeClients, totalConnections } = await vpn.getStatistics();
      assert.deepEqual([activeClients, totalConnections], [1, 1]);

      await assertFails(vpn.getClientTelemetry('nobody'), 'unknown-client', 'nobody');
      await assertFails(vpn.disconnectClient('nobody'), 'unknown-client', 'nobody');
      await vpn.disconnectClient(info.clientId);
      assert.deepEqual(await vpn.event('client-disconnected'), { clientId: info.clientId, reason: 'kicked' });
      assert.deepEqual(await vpn.listClients(), []);
      const kicked = await client.vpn.event('status', ({ state }) => state === 'error');
      assert.equal(kicked.lastErrorCode, 'kicked');
      await client.vpn.connect();
      await client.vpn.disconnect();
      await vpn.event('client-disconnected', ({ reason }) => reason === 'client-disconnect');
      assert.equal(vpn.seen('client-connected').length, 2);
      assert.equal(vpn.seen('client-disconnected').length, 2);
    });

    it('ends its VPN and takes it up again', async () => {
      const { vpn } = await site.serve();
      const client = await site.connect({ reconnect: false });
      await vpn.stopServer();
      const told = await client.vpn.event('status', ({ state }) => state === 'error');
      assert.equal(told.lastErrorCode, 'shutting-down');
      assert.equal((await vpn.getStatus()).state, 'disconnected');
      await vpn.event('status', ({ state }) => state === 'disconnected');
      await vpn.stopServer();
      await vpn.start();
      await client.vpn.connect();
      assert.equal(await reaches(site.client, TUNNEL.server), true);
    });

    it('says what is wrong with a configuration, and where, and does not run then', async () => {
      const vpn = await (await site.agent(site.server)).server();
      for (const [members, path] of [
        [{ subnet: '10.8.0.0/31' }, 'subnet'],
        [{ listenAddr: 'nowhere' }, 'listenAddr'],
        [{ publicKey: keypair().publicKey }, 'publicKey'],
        [{ maxClient: 3 }, 'maxClient'],
        [{ trustedProxies: ['x'] }, 'trustedProxies[0]'],
      ]) {
        const error = await assertFails(
          vpn.start(serverConfig(members)),
          'invalid-config',
          path.split('[')[0],
        );
        assert.equal(error.path, path);
        assert.equal(await running(vpn), false);
      }
      assert.equal(vpn.seen('exit').length, 0, 'no start() has succeeded');
      await vpn.start(serverConfig());
      assert.equal(await running(vpn), true);
    });

    it('says when the port is taken', async () => {
      await site.serve();
      const vpn = await (await site.agent(site.server)).server();
      await assertFails(vpn.start(serverConfig({ subnet: '10.9.0.0/24' })), 'address-in-use');
      assert.equal(await running(vpn), false);
    });

    it('warns of what an operator can mend', async () => {
      await site.server.exec(['nft', '-f', '-'], {
        input: 'table inet foreign { chain forward { type filter hook forward priority 0; policy drop; }; }',
      });
      try {
        const { vpn } = await site.serve();
        const { code, message } = await vpn.event('warning');
        assert.equal(code, 'forward-policy');
        assert.match(message, /to mend it: /);
        assert.equal(vpn.seen('warning').length, 1);
        await vpn.stopServer();
      } finally {
        await site.server.exec(['nft', 'delete', 'table', 'inet', 'foreign']);
      }
    });

    it('refuses wrong arguments', async () => {
      const vpn = await (await site.agent(site.server)).server();
      await vpn.start();
      await assertFails(vpn.disconnectClient(7), 'invalid-argument', 'id');
      await assertFails(vpn.getClientTelemetry(''), 'invalid-argument', 'id');
      await assertFails(vpn.setClientRateLimit('c1', 1000.5, 65536), 'invalid-argument', 'rateBytesPerSec');
      await assertFails(vpn.updateClient('c1'), 'invalid-argument', 'changes');
      await assertFails(vpn.createInvite({ expiresIn: 60 }), 'invalid-argument', 'expiresIn');
    });

    it('limits a client, shows the limit, and lifts it', async () => {
      const { vpn } = await site.serve({ defaultRateLimitBytesPerSec: 20_000 });
      const client = await site.connect();
      const [{ clientId, ...listed }] = await vpn.listClients();
      const limits = ({ rateLimitBytesPerSec, burstBytes }) => [rateLimitBytesPerSec, burstBytes];
      assert.deepEqual(limits(listed), [20_000, 65_536], 'the default, and its least burst');

      for (const [rate, burst] of [
        [1_000, 65_536],
        [10 ** 11, Number.MAX_SAFE_INTEGER],
        [1_500_000, 200_000],
      ]) {
        await vpn.setClientRateLimit(clientId, rate, burst);
        assert.deepEqual(limits((await vpn.listClients())[0]), [rate, burst]);
        assert.deepEqual(limits(await vpn.getClientTelemetry(clientId)), [rate, burst]);
      }
      for (const [rate, burst, name] of [
        [999, 65_536, 'rateBytesPerSec'],
        [10 ** 11 + 1, 65_536, 'rateBytesPerSec'],
        [1_000, 65_535, 'burstBytes'],
        [0, 65_536, 'rateBytesPerSec'],
        [1_000, -1, 'burstBytes'],
        ['1000', 65_536, 'rateBytesPerSec'],
        [1_000, undefined, 'burstBytes'],
      ]) {
        await assertFails(vpn.setClientRateLimit(clientId, rate, burst), 'invalid-argument', name);
      }
      assert.deepEqual(limits(await vpn.getClientTelemetry(clientId)), [1_500_000, 200_000], 'none of them');
      await assertFails(vpn.setClientRateLimit('nobody', 1e6, 65536), 'unknown-client', 'nobody');
      await assertFails(vpn.removeClientRateLimit('nobody'), 'unknown-client', 'nobody');

      await vpn.removeClientRateLimit(clientId);
      await vpn.removeClientRateLimit(clientId);
      const unlimited = await vpn.getClientTelemetry(clientId);
      assert.deepEqual(
        ['rateLimitBytesPerSec', 'burstBytes'].filter((key) => key in unlimited),
        [],
      );
      assert.equal(await reaches(site.client, TUNNEL.server), true);
      await client.vpn.disconnect();
      await client.vpn.connect();
      await vpn.event('client-connected', (other) => other.clientId !== clientId);
      assert.deepEqual(
        limits((await vpn.listClients())[0]),
        [20_000, 65_536],
        'a limit ends with its session',
      );
    });

    it('holds the process while it serves', async () => {
      const { agent, vpn } = await site.serve();
      await agent.release();
      await sleep(500);
      assert.equal(agent.running, true);
      await vpn.stopServer();
      assert.deepEqual(await agent.ended, { code: 0, signal: null }, agent.stderr);
    });

    it('ends a start() that is under way', async () => {
      const vpn = await (await site.agent(site.server)).server();
      const outcome = vpn.start(serverConfig()).then(
        () => 'started',
        ({ code }) => code,
      );
      await vpn.close();
      assert.ok(['started', 'aborted'].includes(await outcome), await outcome);
      assert.equal(vpn.seen('exit').length, (await outcome) === 'started' ? 1 : 0);
    });
  });
}

/** The states that were told, in their order. */
function states(vpn) {
  return vpn.seen('status').map(({ state }) => state);
}

/** Whether the engine of an agent's VPN runs. */
function running(vpn) {
  return vpn.get('running');
}

/** A listener on the server's port that accepts and never says a word. */
async function silence(site) {
  const agent = await site.agent(site.server);
  await agent.run(async ({ load }, address) => {
    const { createServer } = await load('node:net');
    await new Promise((resolve) => createServer(() => {}).listen(8443, address, resolve));
  }, SERVER.address);
}

/** Runs in an agent. */
async function connectAndAbort({ vpns }, config) {
  const controller = new AbortController();
  setTimeout(() => controller.abort(new Error('changed my mind')), 100);
  await vpns.values().next().value.connect(config, { signal: controller.signal });
}

/** Runs in an agent. */
function stopTwice({ vpns }) {
  const [vpn] = vpns.values();
  const begun = performance.now();
  vpn.stop();
  vpn.stop();
  return performance.now() - begun;
}

/** Runs in an agent. */
async function askTooOften({ vpns }) {
  const [vpn] = vpns.values();
  const outcomes = await Promise.allSettled(Array.from({ length: 1001 }, () => vpn.getStatus()));
  const counts = {};
  for (const { status, reason } of outcomes) {
    const name = reason?.code ?? status;
    counts[name] = (counts[name] ?? 0) + 1;
  }
  return counts;
}

/** Runs in an agent. */
async function endBy({ vpns }, how) {
  const [vpn] = vpns.values();
  if (how === 'dispose') await vpn[Symbol.asyncDispose]();
  else await vpn[how]();
}
