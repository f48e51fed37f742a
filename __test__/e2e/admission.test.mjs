/** Who comes in: registered clients, the program's word, and what becomes of those who may not any more. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { assertFails } from './support/assert.mjs';
import { openRelay } from './support/relay.mjs';
import { keypair, PORT, requires, SERVER, serverConfig, TUNNEL, useSite, WEB } from './support/site.mjs';
import { eventually, reaches } from './support/traffic.mjs';

const RELAY_PORT = 9443;
const ADA = keypair();
const BOB = keypair();

/** A key that nobody registered. */
const EVE = keypair();

/** A registered client of this key. */
function registered(id, { publicKey }, more) {
  return { id, publicKey, ...more };
}

/** The part of a client's configuration that holds its key. */
function withKey({ privateKey }) {
  return { privateKey };
}

describe('registered clients', { skip: requires() }, () => {
  const site = useSite({ clients: 2 });

  it('come in by their keys, and nobody else does', async () => {
    const server = await site.serve({ clients: [registered('ada', ADA, { name: "Ada's laptop" })] });
    assert.equal((await server.vpn.getStatus()).auth, 'registered');
    const client = await site.connect({ ...withKey(ADA), name: 'its own word' });
    assert.equal(await reaches(site.client, WEB.address), true);
    const [info] = await server.vpn.listClients();
    assert.deepEqual([info.clientId, info.name, info.assignedIp], ['ada', "Ada's laptop", client.assignedIp]);

    const other = await site.agent(site.clients[1]);
    const stranger = site.connect(withKey(EVE), { host: site.clients[1], agent: other });
    await assertFails(stranger, 'unauthorized', /not registered/);
    const keyless = site.connect({}, { host: site.clients[1], agent: other });
    await assertFails(keyless, 'unauthorized', /no key/);
    assert.equal((await server.vpn.listClients()).length, 1);
    const [listed] = await server.vpn.listRegisteredClients();
    assert.deepEqual(listed, {
      ...registered('ada', ADA, { name: "Ada's laptop" }),
      maxSessions: 1,
      disabled: false,
      online: true,
    });
  });

  it('are added, changed and removed while the server serves', async () => {
    const server = await site.serve({ auth: 'registered' });
    const agent = await site.agent(site.client);
    await assertFails(site.connect(withKey(ADA), { agent }), 'unauthorized');
    const added = await server.vpn.addClient(registered('ada', ADA, { assignedIp: '10.8.0.77' }));
    assert.deepEqual([added.id, added.online, added.disabled], ['ada', false, false]);
    const client = await site.connect(withKey(ADA), { agent });
    assert.equal(client.assignedIp, '10.8.0.77');

    const limited = await server.vpn.updateClient('ada', { rateLimitBytesPerSec: 500_000, name: 'Ada' });
    assert.deepEqual(
      [limited.rateLimitBytesPerSec, limited.burstBytes, limited.online],
      [500_000, 500_000, true],
    );
    const { rateLimitBytesPerSec } = await server.vpn.getClientTelemetry('ada');
    assert.equal(rateLimitBytesPerSec, 500_000, 'at once');

    await assertFails(server.vpn.addClient(registered('ada', BOB)), 'invalid-argument', /id "ada" is taken/);
    await assertFails(server.vpn.addClient(registered('bob', ADA)), 'invalid-argument', /registered already/);
    await assertFails(
      server.vpn.addClient(registered('bob', BOB, { assignedIp: '10.8.0.77' })),
      'invalid-argument',
      /for the client "ada"/,
    );
    await assertFails(
      server.vpn.addClient(registered('bob', BOB, { assignedIp: '10.9.0.2' })),
      'invalid-argument',
      /10\.8\.0\.2 to 10\.8\.0\.254/,
    );
    await assertFails(server.vpn.updateClient('bob', {}), 'unknown-client');
    await assertFails(server.vpn.updateClient('ada', { colour: 'red' }), 'invalid-argument', /colour/);
    await assertFails(server.vpn.removeClient('bob'), 'unknown-client');
    assert.equal((await server.vpn.listRegisteredClients()).length, 1);
  });

  for (const [how, cut, reason] of [
    ['removed', (vpn) => vpn.removeClient('ada'), 'removed'],
    ['disabled', (vpn) => vpn.updateClient('ada', { disabled: true }), 'removed'],
    ['expired', (vpn) => vpn.updateClient('ada', { expiresAt: '2020-01-01T00:00:00Z' }), 'expired'],
    ['given another key', (vpn) => vpn.updateClient('ada', { publicKey: EVE.publicKey }), 'removed'],
  ]) {
    it(`are cut within a second when they are ${how}, and stay outside`, async () => {
      const server = await site.serve({ clients: [registered('ada', ADA)] });
      const client = await site.connect(withKey(ADA));
      const since = performance.now();
      await cut(server.vpn);
      const gone = await server.vpn.event('client-disconnected');
      assert.deepEqual(gone, { clientId: 'ada', reason });
      assert.ok(performance.now() - since < 1_000, 'within a second');
      const status = await client.vpn.event('status', ({ state }) => state === 'error');
      assert.equal(status.lastErrorCode, 'removed');
      assert.equal((await server.vpn.listClients()).length, 0);
      await assertFails(client.vpn.connect(client.config), 'unauthorized');
    });
  }

  it('are cut when their time comes', async () => {
    const server = await site.serve({ clients: [registered('ada', ADA)] });
    await site.connect(withKey(ADA));
    const expiresAt = new Date(Math.ceil(Date.now() / 1000 + 1) * 1000).toISOString();
    await server.vpn.updateClient('ada', { expiresAt });
    const { reason } = await server.vpn.event('client-disconnected');
    assert.equal(reason, 'expired');
    const late = Date.now() - Date.parse(expiresAt);
    assert.ok(late >= 0 && late < 1_500, `${late} ms after its time`);
  });

  it('lose their tickets with their registration, also while they are away', async () => {
    const server = await site.serve({ clients: [registered('ada', ADA)] });
    const relay = await openRelay(site, site.server, {
      listen: { host: SERVER.address, port: RELAY_PORT },
      to: { host: SERVER.address, port: PORT },
    });
    const client = await site.connect({
      ...withKey(ADA),
      serverUrl: `wss://${SERVER.address}:${RELAY_PORT}/`,
      reconnect: { baseDelayMs: 50, maxDelayMs: 100 },
    });
    await relay.refuse(true);
    await relay.cut('reset');
    await eventually(async () => assert.equal((await server.vpn.listClients())[0].online, false));
    await server.vpn.removeClient('ada');
    assert.deepEqual(await server.vpn.event('client-disconnected'), { clientId: 'ada', reason: 'removed' });
    await relay.refuse(false);
    const status = await client.vpn.event('status', ({ state }) => state === 'error');
    assert.equal(status.lastErrorCode, 'unauthorized');
  });

  it('have the same address whenever they come', async () => {
    const server = await site.serve({ clients: [registered('ada', ADA), registered('bob', BOB)] });
    const agent = await site.agent(site.client);
    const ada = await site.connect(withKey(ADA), { agent });
    await ada.vpn.disconnect();
    const bob = await site.connect(withKey(BOB), { host: site.clients[1] });
    for (let round = 0; round < 5; round++) {
      await bob.vpn.disconnect();
      assert.equal((await bob.vpn.connect(bob.config)).assignedIp, bob.assignedIp);
    }
    assert.notEqual(ada.assignedIp, bob.assignedIp);
    assert.equal((await ada.vpn.connect(ada.config)).assignedIp, ada.assignedIp);
    await Promise.all([ada.vpn.disconnect(), bob.vpn.disconnect()]);
    await server.vpn.stopServer();
    await server.vpn.start(server.config);
    assert.equal((await bob.vpn.connect(bob.config)).assignedIp, bob.assignedIp);
    assert.equal((await ada.vpn.connect(ada.config)).assignedIp, ada.assignedIp);
  });

  it('are remembered over a restart of the server, a crash included', async () => {
    const clients = [registered('ada', ADA)];
    const server = await site.serve({ clients });
    await server.vpn.updateClient('ada', { disabled: true });
    await server.vpn.addClient(registered('bob', BOB));
    await server.agent.kill();
    const again = await site.serve({ clients });
    const listed = await again.vpn.listRegisteredClients();
    assert.deepEqual(
      listed.map(({ id, disabled }) => [id, disabled]),
      [
        ['ada', true],
        ['bob', false],
      ],
    );
    await assertFails(site.connect(withKey(ADA)), 'unauthorized', /disabled/);
    await again.vpn.removeClient('bob');
    await again.vpn.updateClient('ada', { disabled: false });
    await again.vpn.stopServer();
    await again.vpn.start(again.config);
    assert.deepEqual(
      (await again.vpn.listRegisteredClients()).map(({ id }) => id),
      ['ada'],
    );
  });

  it('may have several sessions where that is allowed, and else the newest one', async () => {
    const server = await site.serve({ clients: [registered('ada', ADA)] });
    const first = await site.connect(withKey(ADA));
    const host = site.clients[1];
    const second = await site.connect(withKey(ADA), { host });
    assert.equal(second.assignedIp, first.assignedIp);
    const status = await first.vpn.event('status', ({ state }) => state === 'error');
    assert.equal(status.lastErrorCode, 'replaced');
    assert.deepEqual(await server.vpn.event('client-disconnected'), { clientId: 'ada', reason: 'replaced' });
    assert.equal(await reaches(host, WEB.address), true);

    // The one who sits stays, and the operator hears of it.
    await assertFails(first.vpn.connect(first.config), 'server-full', /same key/);
    const warning = await server.vpn.event('warning');
    assert.deepEqual([warning.code, warning.clientId], ['duplicate-client', 'ada']);
    assert.equal(await reaches(host, WEB.address), true);

    await server.vpn.updateClient('ada', { maxSessions: 2 });
    const beside = await first.vpn.connect(first.config);
    assert.notEqual(beside.assignedIp, second.assignedIp);
    assert.deepEqual((await server.vpn.listClients()).map(({ clientId }) => clientId).toSorted(), [
      'ada',
      'ada.2',
    ]);
  });

  it('need not be known where the door is open, which is said aloud', async () => {
    const server = await site.serve();
    assert.equal((await server.vpn.getStatus()).auth, 'open');
    const line = server.vpn.seen('log').find(({ target }) => target === 'auth');
    assert.match(line.message, /open: whoever knows/);
    const first = await site.connect(withKey(EVE));
    await first.vpn.disconnect();
    await site.connect({}, { host: site.clients[1] });
    assert.equal((await first.vpn.connect(first.config)).assignedIp, first.assignedIp, 'known by its key');
    assert.equal((await server.vpn.listClients()).length, 2);
  });
});

describe('registered clients of a daemon', { skip: requires() }, () => {
  for (const transport of ['stdio', 'socket']) {
    const site = useSite({ transport });
    it(`are decided about over ${transport}, too`, async () => {
      const server = await site.serve({ auth: 'registered' });
      await server.vpn.addClient(registered('ada', ADA));
      await site.connect(withKey(ADA));
      assert.equal((await server.vpn.listRegisteredClients())[0].online, true);
      await server.vpn.removeClient('ada');
      assert.equal((await server.vpn.event('client-disconnected')).reason, 'removed');
      await assertFails(server.vpn.addClient({ id: 'x' }), 'invalid-argument', /publicKey/);
      const { message } = await server.vpn.createInvite().catch((error) => error);
      assert.match(message, /publicUrl/);
    });
  }
});

describe('the program', { skip: requires() }, () => {
  const site = useSite({ clients: 2 });

  /** A server whose `authenticate` is this function, which may leave what it saw in the global `asked`. */
  async function serveAsking(authenticate, config) {
    const agent = await site.agent(site.server);
    const vpn = await agent.server();
    await vpn.startAsking(serverConfig(config), authenticate);
    return { agent, vpn, asked: () => agent.run(() => globalThis.asked) };
  }

  it('says who comes in, as whom, with which address and limit', async () => {
    const server = await serveAsking(async ({ publicKey, token, name, remoteAddr, signal }) => {
      globalThis.asked.push({ publicKey, token, name, remoteAddr, aborted: signal.aborted });
      if (token !== 'open-sesame') return null;
      return { clientId: 'user-1', assignedIp: '10.8.0.50', rateLimitBytesPerSec: 1_000_000 };
    });
    assert.equal((await server.vpn.getStatus()).auth, 'callback');
    const client = await site.connect({ token: 'open-sesame', ...withKey(ADA), name: 'laptop' });
    assert.equal(client.assignedIp, '10.8.0.50');
    const [info] = await server.vpn.listClients();
    assert.deepEqual([info.clientId, info.rateLimitBytesPerSec], ['user-1', 1_000_000]);
    const [asked] = await server.asked();
    assert.deepEqual(
      { ...asked, remoteAddr: asked.remoteAddr.replace(/:\d+$/, '') },
      {
        publicKey: ADA.publicKey,
        token: 'open-sesame',
        name: 'laptop',
        remoteAddr: '10.90.1.2',
        aborted: false,
      },
    );
    const host = site.clients[1];
    const agent = await site.agent(host);
    await assertFails(site.connect({ token: 'wrong' }, { host, agent }), 'unauthorized');
    await assertFails(site.connect({}, { host, agent }), 'unauthorized');
    assert.equal((await server.asked()).length, 3);
    // Without a key, too: newest wins.
    const other = await site.connect({ token: 'open-sesame' }, { host, agent });
    assert.equal(other.assignedIp, '10.8.0.50');
    assert.equal(
      (await client.vpn.event('status', ({ state }) => state === 'error')).lastErrorCode,
      'replaced',
    );
  });

  it('is not asked about registered clients, and may be wrong without harm', async () => {
    const server = await serveAsking(
      ({ token }) => {
        globalThis.asked.push(token);
        if (token === 'throws') throw new Error('the database is gone');
        if (token === 'rejects') return Promise.reject(new Error('the database is gone'));
        if (token === 'nonsense') return { id: 5 };
        if (token === 'another') return { clientId: 'ada' };
        if (token === 'taken') return { clientId: 'x', assignedIp: '10.8.0.77' };
        if (token === 'outside') return { clientId: 'x', assignedIp: '10.9.0.77' };
        return undefined;
      },
      { clients: [registered('ada', ADA, { assignedIp: '10.8.0.77' })] },
    );
    await site.connect(withKey(ADA));
    assert.deepEqual(await server.asked(), []);
    const host = site.clients[1];
    const agent = await site.agent(host);
    for (const [token, code] of [
      ['throws', 'unauthorized'],
      ['rejects', 'unauthorized'],
      ['nothing', 'unauthorized'],
      ['nonsense', 'bad-request'],
      ['another', 'bad-request'],
      ['taken', 'bad-request'],
      ['outside', 'bad-request'],
    ]) {
      await assertFails(site.connect({ token }, { host, agent }), code);
      // Warnings come once a second.
      await sleep(1_100);
    }
    const warnings = server.vpn.seen('warning');
    assert.equal(warnings.length, 6, JSON.stringify(warnings));
    for (const { code, message } of warnings) {
      assert.equal(code, 'authenticate-failed');
      assert.match(message, /database is gone|clientId|"ada"|10\.8\.0/);
    }
    assert.equal(await reaches(site.client, TUNNEL.server), true);
  });

  it('has a bounded time, and hears when its answer is of no use any more', async () => {
    const server = await serveAsking(
      ({ token, signal }) =>
        new Promise((resolve) => {
          signal.addEventListener('abort', () => {
            globalThis.asked.push(token);
            resolve({ clientId: 'late' });
          });
        }),
      { authenticateTimeoutMs: 500 },
    );
    const agent = await site.agent(site.client);
    await assertFails(site.connect({ token: 'slow' }, { agent }), 'server-full');
    await eventually(async () => assert.deepEqual(await server.asked(), ['slow']));
    assert.equal((await server.vpn.listClients()).length, 0);
  });
});
