/** The daemon as a child: it ends with its program, however that ends, and leaves the host as found. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { describe, it } from 'node:test';

import { assertFails } from './support/assert.mjs';
import { clientConfig, missingDaemon, requires, TUNNEL, useSite, WEB } from './support/site.mjs';
import { eventually, interfaceWith, reaches } from './support/traffic.mjs';

/** A client that changes more of its host than its interface: routes beside the tunnel, too. */
const FULL_TUNNEL = { routes: ['0.0.0.0/0'] };

describe('a daemon that is a child', { skip: requires() || missingDaemon() }, () => {
  const site = useSite({ transport: 'stdio' });

  const endings = {
    'process.exit()': { act: () => void setImmediate(() => process.exit(7)), ended: [7, null] },
    'an uncaught throw': {
      act: () =>
        void setImmediate(() => {
          throw new Error('on purpose');
        }),
      ended: [1, null],
    },
    SIGTERM: { signal: 'SIGTERM', ended: [null, 'SIGTERM'] },
    SIGINT: { signal: 'SIGINT', ended: [null, 'SIGINT'] },
  };
  for (const [name, { act, signal, ended }] of Object.entries(endings)) {
    it(`has ended, with all it set, before its program has: ${name}`, async () => {
      const server = await site.serve({ subnet6: TUNNEL.subnet6 });
      const client = await site.connect({ ...FULL_TUNNEL, reconnect: false });
      for (const { agent } of [client, server]) {
        const pid = daemonOf(agent);
        if (signal) await agent.kill(signal);
        else await agent.run(act).catch(() => {});
        const end = await agent.ended;
        assert.deepEqual([end.code, end.signal], ended, agent.stderr);
        assert.ok(!existsSync(`/proc/${pid}/exe`), 'the daemon lives on');
      }
      assert.equal(await interfaceWith(site.client, client.assignedIp), undefined);
      await site.assertAsFound();
    });
  }

  it('ends when its program is killed, in the middle of traffic or of a connect()', async () => {
    const server = await site.serve({ subnet6: TUNNEL.subnet6 });
    const client = await site.connect(FULL_TUNNEL);
    assert.equal(await reaches(site.client, WEB.address), true);
    const second = await site.agent(site.client);
    const connecting = await second.startedClient();
    connecting.connect(clientConfig({ serverUrl: 'wss://10.90.0.77:8443/' })).catch(() => {});
    await connecting.event('status', ({ state }) => state === 'connecting');
    const agents = [client.agent, second, server.agent];
    const pids = agents.map(daemonOf);
    await Promise.all(agents.map((agent) => agent.kill('SIGKILL')));
    await eventually(() => {
      for (const pid of pids) assert.ok(!existsSync(`/proc/${pid}/exe`), `${pid} lives on`);
    }, 10_000);
    await site.assertAsFound();
  });

  it('that is killed rejects the calls in flight and is told by exit; the next repairs the host', async () => {
    const server = await site.serve();
    const { agent, vpn, config } = await site.connect(FULL_TUNNEL);
    await agent.run(
      ({ vpns }) =>
        void vpns
          .values()
          .next()
          .value.getStatus()
          .catch(() => {}),
    );
    const pid = daemonOf(agent);
    process.kill(pid, 'SIGSTOP');
    await eventually(() => assert.ok(isStopped(pid), 'a thread still runs'));
    const call = assertFails(vpn.getStatistics(), 'daemon-exited', 'SIGKILL');
    await eventually(async () => assert.equal(await agent.run(() => true), true));
    process.kill(pid, 'SIGKILL');
    await call;
    const { code, signal, error } = await vpn.event('exit');
    assert.deepEqual([code, signal, error.code], [null, 'SIGKILL', 'daemon-exited']);
    await assertFails(vpn.getStatus(), 'not-running');
    assert.equal(await vpn.start(), true);
    await vpn.connect(config);
    assert.equal(await reaches(site.client, WEB.address), true);
    await vpn.close();
    assert.equal(vpn.seen('exit').length, 2);
    await server.agent.close();
    await site.assertAsFound();
  });

  it('is not reached by the Ctrl-C of a terminal, which is for the program', async () => {
    await site.serve();
    const { agent } = await site.connect();
    const daemon = statOf(daemonOf(agent));
    assert.equal(daemon.session, daemon.pid);
    assert.notEqual(daemon.group, statOf(agent.pid).group);
  });

  it('writes its log where log events are made of it', async () => {
    const agent = await site.agent(site.client, { env: { RUST_LOG: 'smartvpn=debug' } });
    const vpn = await agent.startedClient();
    await assertFails(vpn.connect(clientConfig()), 'connection-refused');
    await vpn.close();
    for (const { level, target } of vpn.seen('log')) {
      assert.match(level, /^(error|warn|info|debug|trace)$/);
      assert.match(target, /^[a-z]/);
    }
    assert.equal(agent.stderr, '');
  });

  it('of the other mode, or none at all, does not start', async () => {
    const agent = await site.agent(site.client);
    for (const [daemonPath, words] of [
      ['/nowhere/smartvpn_daemon', /no such file/],
      ['/bin/false', /ended before it was ready \(exit code 1\)/],
      ['/bin/ls', /ended before it was ready/],
    ]) {
      const vpn = await agent.client({ transport: { transport: 'stdio', daemonPath } });
      await assertFails(vpn.start(), 'control-unavailable', words);
    }
  });

  it('leaves no descriptor and no process behind, however often it is started', async () => {
    const agent = await site.agent(site.client);
    const vpn = await agent.startedClient();
    await vpn.close();
    const open = () => readdirSync(`/proc/${agent.pid}/fd`).length;
    const before = open();
    await agent.run(startOften, 30);
    await eventually(() => assert.ok(open() <= before, `${open()} open, ${before} before`));
    assert.deepEqual(daemonsOf(agent), []);
  });
});

/** Runs in an agent. */
async function startOften({ vpns }, rounds) {
  const [vpn] = vpns.values();
  for (let round = 0; round < rounds; round++) {
    await vpn.start();
    await vpn.close();
  }
}

function statOf(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const [, parent, group, session] = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number);
  return { pid, parent, group, session };
}

/** Whether none of its threads runs any more: each stops when it next comes by the kernel. */
function isStopped(pid) {
  return readdirSync(`/proc/${pid}/task`).every((thread) => {
    const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'latin1');
    return stat[stat.lastIndexOf(')') + 2] === 'T';
  });
}

/** The ids of the daemons that an agent has started, and that run. */
function daemonsOf({ pid }) {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((other) => {
      try {
        return statOf(other).parent === pid && readlinkSync(`/proc/${other}/exe`).endsWith('smartvpn_daemon');
      } catch {
        return false;
      }
    });
}

/** The one daemon of an agent. */
function daemonOf(agent) {
  const [daemon, ...more] = daemonsOf(agent);
  assert.ok(daemon && more.length === 0, `${1 + more.length} daemons`);
  return daemon;
}
