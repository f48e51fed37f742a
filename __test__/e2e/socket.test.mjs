/** A daemon that runs already: controllers come and go, its VPN stays. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { Daemon } from '../../scripts/lab-remote.mjs';
import { assertFails } from './support/assert.mjs';
import {
  clientConfig,
  missingDaemon,
  requires,
  serverConfig,
  TUNNEL,
  useSite,
  WEB,
} from './support/site.mjs';
import { eventually, interfaceWith, reaches } from './support/traffic.mjs';

const QUICK = { reconnectBaseDelayMs: 50, reconnectMaxDelayMs: 200 };

describe('a daemon that runs already', { skip: requires() || missingDaemon() }, () => {
  const site = useSite();

  /** Runs `use` with a daemon on `host`, which ends in good order afterwards. */
  async function withDaemon(host, mode, use) {
    const daemon = await Daemon.start(host, mode);
    try {
      return await use(daemon);
    } finally {
      await daemon.close();
    }
  }

  /** A client of the daemon in a process of its own on the first client host. */
  async function controller(daemon, options, className = 'client', host = site.client) {
    const agent = await site.agent(host);
    const vpn = await agent[className]({
      transport: { transport: 'socket', socketPath: daemon.socketPath, ...options },
    });
    await vpn.start();
    return { agent, vpn };
  }

  it('keeps its VPN when its controller stops, ends, or is killed; the next one finds it', async () => {
    await site.serve();
    await withDaemon(site.client, 'client', async (daemon) => {
      const first = await controller(daemon);
      const { assignedIp } = await first.vpn.connect(clientConfig());
      for (const leave of [
        ({ vpn }) => vpn.close(),
        ({ agent }) => agent.run(() => void setImmediate(() => process.exit(0))).catch(() => {}),
        ({ agent }) => agent.kill('SIGTERM'),
        ({ agent }) => agent.kill('SIGKILL'),
      ]) {
        const next = await controller(daemon);
        await leave(next);
        assert.equal(await reaches(site.client, WEB.address), true);
      }
      await first.vpn.close();
      const last = await controller(daemon);
      const status = await last.vpn.getStatus();
      assert.deepEqual([status.state, status.assignedIp], ['connected', assignedIp]);
      await assertFails(last.vpn.connect(clientConfig()), 'already-connected');
      await last.vpn.disconnect();
      assert.equal(await interfaceWith(site.client, assignedIp), undefined);
    });
    assert.equal(await reaches(site.client, TUNNEL.server), false);
  });

  it('takes several controllers, each of which hears all', async () => {
    await withDaemon(site.server, 'server', async (daemon) => {
      const controllers = [
        await controller(daemon, {}, 'server', site.server),
        await controller(daemon, {}, 'server', site.server),
      ];
      const [{ vpn: first }, { vpn: second }] = controllers;
      await first.start(serverConfig());
      await assertFails(second.start(serverConfig()), 'already-running');
      await site.connect({ name: 'laptop' });
      const { clientId } = await first.event('client-connected');
      assert.equal((await second.event('client-connected')).clientId, clientId);
      await second.disconnectClient(clientId);
      assert.equal((await first.event('client-disconnected')).reason, 'kicked');
      await first.close();
      assert.equal((await second.getStatus()).state, 'connected');
      await second.stopServer();
    });
  });

  it('of the other mode is refused', async () => {
    await withDaemon(site.server, 'server', async (daemon) => {
      const agent = await site.agent(site.server);
      const vpn = await agent.client({ transport: { transport: 'socket', socketPath: daemon.socketPath } });
      await assertFails(vpn.start(), 'wrong-mode', 'VpnServer');
    });
  });

  it('that is not there is control-unavailable', async () => {
    const agent = await site.agent(site.client);
    const vpn = await agent.client({ transport: { transport: 'socket', socketPath: '/run/nowhere.sock' } });
    await assertFails(vpn.start(), 'control-unavailable', 'no such socket', 'smartvpn_daemon');
  });

  it('is found again after it was killed, and repairs the host', async () => {
    await site.serve();
    const killed = await Daemon.start(site.client, 'client');
    const { agent, vpn } = await controller(killed, QUICK);
    await vpn.connect(clientConfig({ routes: ['0.0.0.0/0'] }));
    vpn.forget();

    process.kill(killed.pid, 'SIGSTOP');
    const inFlight = assertFails(vpn.getStatistics(), 'control-disconnected', killed.socketPath);
    await agent.run(() => true);
    await killed.kill();
    await inFlight;
    assert.equal(await vpn.get('running'), true);
    const waiting = vpn.getStatus();
    const next = await Daemon.start(site.client, 'client', { socketPath: killed.socketPath });
    try {
      assert.equal((await waiting).state, 'disconnected');
      assert.deepEqual(
        vpn.events.map(({ name }) => name).filter((name) => name !== 'log'),
        ['reconnected', 'status'],
      );
      await vpn.connect();
      assert.equal(await reaches(site.client, WEB.address), true);
      await vpn.disconnect();
      await vpn.close();
      assert.equal(vpn.seen('exit').length, 1);
    } finally {
      await next.close();
    }
    await eventually(() => site.assertAsFound(site.client));
  });

  it('that ends is given up after the attempts; start() begins anew', async () => {
    const daemon = await Daemon.start(site.client, 'client');
    const { vpn } = await controller(daemon, { ...QUICK, maxReconnectAttempts: 3 });
    await daemon.close();
    const { code, signal, error } = await vpn.event('exit');
    assert.deepEqual([code, signal, error.code], [1, null, 'control-unavailable']);
    await assertFails(vpn.getStatus(), 'control-unavailable', 'begins anew');
    await assertFails(vpn.start(), 'control-unavailable', 'no such socket');
    const again = await Daemon.start(site.client, 'client', { socketPath: daemon.socketPath });
    try {
      assert.equal(await vpn.start(), true);
      assert.equal((await vpn.getStatus()).state, 'disconnected');
      await vpn.close();
      assert.equal(vpn.seen('exit').length, 2);
    } finally {
      await again.close();
    }
  });
});
