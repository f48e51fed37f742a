/** Strangers that mean harm, in great numbers: sessions go on, and newcomers come in. */
import assert from 'node:assert/strict';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import { afterEach, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { notBuilt } from './support/daemon.mjs';
import { bulk, rateOf } from './support/load.mjs';
import { endAll, start } from './support/program.mjs';
import { ServerProcess } from './support/servers.mjs';
import { clientConfig, LONG, PORT, requires, SERVER, TUNNEL, useSite } from './support/site.mjs';
import { reaches } from './support/traffic.mjs';

const FLOOD = fileURLToPath(new URL('./support/flood.mjs', import.meta.url));

/** Addresses that the attackers' host has beside its own. */
const ATTACKERS = { net: '10.91', count: 1_000 };

/** Whence the newcomers come, each from an address that the server has not seen. */
const NEWCOMERS = '10.92';

/** Without TLS the attackers, who share the machine, can be quick. */
const PLAIN = { tlsCert: undefined, tlsKey: undefined };
const PLAIN_CLIENT = { serverUrl: `ws://${SERVER.address}:${PORT}/`, tlsCa: undefined };

/** How long a newcomer waits that was turned away, in milliseconds. */
const RETRY_MS = 250;

const MEMORY_LIMIT = 64 * 1024 * 1024;

/** The middle of each is far from what was measured; the issue's own figures are asked for in long runs. */
const GENEROUS = LONG
  ? { flow: 0.7, joinMs: 2_000, stuckMs: 12_000 }
  : { flow: 0.2, joinMs: 10_000, stuckMs: 20_000 };

describe('a server under attack', { skip: requires('iperf3', 'prlimit') || notBuilt }, () => {
  const site = useSite({ clients: 3 });
  const [good, evil, newcomer] = [0, 1, 2].map((index) => () => site.clients[index]);

  afterEach(() => endAll('SIGKILL'));

  /** A test during which whole networks are those hosts' own. */
  const attacked = (test) => async (t) => {
    await evil().ip([`route add local ${ATTACKERS.net}.0.0/16 dev lo`]);
    await newcomer().ip([`route add local ${NEWCOMERS}.0.0/16 dev lo`]);
    await site.internet.ip([
      `route add ${ATTACKERS.net}.0.0/16 via 10.90.2.2`,
      `route add ${NEWCOMERS}.0.0/16 via 10.90.3.2`,
    ]);
    try {
      await test(t);
    } finally {
      await endAll('SIGKILL');
      await evil().ip([`route del local ${ATTACKERS.net}.0.0/16 dev lo`]);
      await newcomer().ip([
        'route replace 0.0.0.0/0 via 10.90.3.1',
        `route del local ${NEWCOMERS}.0.0/16 dev lo`,
      ]);
      await site.internet.ip([`route del ${ATTACKERS.net}.0.0/16`, `route del ${NEWCOMERS}.0.0/16`]);
    }
  };

  const attack = (plan) => {
    const whole = { host: SERVER.address, port: PORT, tls: false, sources: ATTACKERS, ...plan };
    const program = start(evil(), [process.execPath, FLOOD, JSON.stringify(whole)]);
    return {
      isOver: () => program.json().length > 1,
      result: () => program.ended.then(() => program.json().at(-1) ?? assert.fail(program.output())),
    };
  };

  /** Connects as programs do, which try again. */
  const joined = async (agent, config) => {
    const vpn = await agent.startedClient();
    for (;;) {
      try {
        await vpn.connect(clientConfig(config));
        return vpn;
      } catch (error) {
        assert.equal(error.code, 'connection-lost', error.stack);
        await sleep(RETRY_MS);
      }
    }
  };

  /** Has newcomers come in, one after the other, until the attack is over; how long each took, sorted. */
  const joins = async (attacking, config) => {
    const agent = await site.agent(newcomer());
    const times = [];
    while (!attacking.isOver() || times.length === 0) {
      const address = `${NEWCOMERS}.0.${times.length + 1}`;
      await newcomer().ip([`route replace 0.0.0.0/0 via 10.90.3.1 src ${address}`]);
      const begun = performance.now();
      const vpn = await joined(agent, config);
      times.push(performance.now() - begun);
      await vpn.close();
      await sleep(100);
    }
    return times.toSorted((a, b) => a - b);
  };

  const p95 = (sorted) => sorted[Math.ceil(sorted.length * 0.95) - 1];

  it(
    'carries its clients, and lets newcomers in, while handshakes come to nothing',
    attacked(async (t) => {
      const server = await site.serve(PLAIN);
      await site.connect(PLAIN_CLIENT, { host: good() });
      const [{ clientId }] = await server.vpn.listClients();
      await bulk(good(), site.server, TUNNEL.server, { args: ['--bitrate', '100M'] });
      await sleep(1_000);
      const before = await rateOf(server.vpn, clientId, 'bytesReceived', 2_000);
      const seconds = LONG ? 30 : 5;
      const attacking = attack({ kind: 'handshakes', perSecond: 2_000, seconds });
      const [during, times] = await Promise.all([
        rateOf(server.vpn, clientId, 'bytesReceived', seconds * 1_000),
        joins(attacking, PLAIN_CLIENT),
      ]);
      const { perSecond, begun, ended } = await attacking.result();
      t.diagnostic(
        `${perSecond.toFixed()} bogus handshakes/s for ${seconds} s (${begun} begun, ${ended} ended); the flow: ` +
          `${mbit(before)} before, ${mbit(during)} meanwhile (${((100 * during) / before).toFixed()} %); ` +
          `${times.length} newcomers, p95 ${p95(times).toFixed()} ms`,
      );
      assert.ok(during >= GENEROUS.flow * before, `${mbit(during)} of ${mbit(before)}`);
      assert.ok(p95(times) <= GENEROUS.joinMs, `${p95(times)} ms`);
      assert.match((await server.vpn.event('warning')).message, /strangers flood the server/);
      assert.equal(server.vpn.seen('warning').filter(({ code }) => code === 'flood').length, 1);
      assert.equal((await server.vpn.listClients()).length, 1, 'the one that was there is, and no stranger');
    }),
  );

  for (const tls of [true, false]) {
    it(
      `closes two thousand sockets that are stuck, ${tls ? 'with' : 'without'} TLS`,
      attacked(async (t) => {
        await site.serve(tls ? {} : PLAIN);
        const config = tls ? {} : PLAIN_CLIENT;
        await site.connect(config, { host: good() });
        const attacking = attack({ kind: 'stuck', count: 2_000, tls });
        const times = await joins(attacking, config);
        const { ages, failed } = await attacking.result();
        t.diagnostic(
          `left open for at most ${Object.entries(ages)
            .map(([name, age]) => `${name} ${(age / 1000).toFixed(1)} s`)
            .join(', ')}; ${times.length} newcomers meanwhile, p95 ${p95(times).toFixed()} ms`,
        );
        assert.equal(failed, 0);
        assert.ok(Math.max(...Object.values(ages)) <= GENEROUS.stuckMs, JSON.stringify(ages));
        assert.ok(p95(times) <= GENEROUS.joinMs, `${p95(times)} ms`);
      }),
    );
  }

  it(
    'counts what a trusted proxy brings for the addresses that it forwards',
    attacked(async () => {
      const proxies = [`${ATTACKERS.net}.0.0/16`];
      await site.serve({ ...PLAIN, trustedProxies: proxies, handshakesPerSecond: 1, handshakeBurst: 3 });
      const addresses = [
        ...Array(6).fill('192.0.2.1'),
        '192.0.2.2',
        '2001:db8::1',
        '2001:db8::2',
        '2001:db8::3',
      ];
      // One that is admitted says what is against the protocol (1002); the others are to come back later (1013).
      const answers = await attack({ kind: 'forwarded', addresses }).result();
      assert.deepEqual(answers.slice(0, 3), [1002, 1002, 1002]);
      assert.ok(answers.slice(3, 6).includes(1013), `${answers}`);
      assert.deepEqual(answers.slice(6), [1002, 1002, 1002, 1002]);
    }),
  );

  it(
    'neither spins nor loses anybody when descriptors are short',
    attacked(async (t) => {
      const agent = await site.agent(site.server, { wrap: ['prlimit', '--nofile=160:160'] });
      const server = await site.serve(PLAIN, { agent });
      const client = await site.connect(PLAIN_CLIENT, { host: good() });
      const attacking = attack({ kind: 'stuck', count: 600 });
      await sleep(2_500);
      const open = readdirSync(`/proc/${agent.pid}/fd`).length;
      assert.ok(open > 100 && open < 160, `${open} descriptors: short, with a reserve`);
      const [busy, at] = [cpuSeconds(agent.pid), performance.now()];
      await sleep(3_000);
      const share = ((cpuSeconds(agent.pid) - busy) * 1000) / (performance.now() - at);
      t.diagnostic(`${open} of 160 descriptors, ${(100 * share).toFixed(1)} % of a core`);
      assert.ok(share < 0.2, `${share} of a core`);
      assert.equal(await reaches(good(), TUNNEL.server), true);
      // What the server needs descriptors for.
      const another = await site.connect(PLAIN_CLIENT, { host: newcomer() });
      assert.equal((await server.vpn.listClients()).length, 2);
      await another.vpn.close();
      await attacking.result();
      assert.equal((await client.vpn.getStatus()).state, 'connected');
      assert.equal(client.vpn.seen('status').filter(({ state }) => state === 'reconnecting').length, 0);
    }),
  );

  it(
    'answers each abuse of WebSocket with its code, in little memory',
    attacked(async (t) => {
      const group = memoryGroup(t);
      const server = await ServerProcess.start(site, PLAIN, { spawned: group?.take });
      await site.connect(PLAIN_CLIENT, { host: good() });
      const begun = cpuSeconds(server.pid);
      const count = LONG ? 10_000 : 500;
      const { seen, expected } = await attack({ kind: 'abuse', count, lanes: 16 }).result();
      const cpuMs = ((cpuSeconds(server.pid) - begun) * 1000) / count;
      t.diagnostic(
        `${count} hostile connections, ${cpuMs.toFixed(2)} ms of CPU time each: ${JSON.stringify(seen)}`,
      );
      for (const [abuse, answers] of Object.entries(seen)) {
        // Without one: turned away at the door, or reset while it still wrote.
        const wrong = Object.keys(answers).filter((code) => ![0, expected[abuse]].includes(Number(code)));
        assert.deepEqual(wrong, [], `${abuse}: ${JSON.stringify(answers)}`);
        assert.ok(answers[expected[abuse]] > 0, `${abuse}: ${JSON.stringify(answers)}`);
      }
      const peak =
        Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${server.pid}/status`, 'utf8'))[1]) * 1024;
      t.diagnostic(
        `at most ${(peak / 2 ** 20).toFixed(1)} MiB; ${group ? group.figures() : 'no cgroup can be made here'}`,
      );
      assert.ok(peak <= MEMORY_LIMIT, `${peak} bytes`);
      if (group) assert.equal(group.failures(), 0);
      const again = await site.connect(PLAIN_CLIENT, { host: newcomer() });
      assert.ok(again.assignedIp);
    }),
  );
});

const mbit = (bytesPerSec) => `${((bytesPerSec * 8) / 1e6).toFixed(1)} Mbit/s`;

function cpuSeconds(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** A memory cgroup with the limit, of version 2 or 1, gone at the end of the test; nothing where none can be made. */
function memoryGroup(t) {
  const version2 = existsSync('/sys/fs/cgroup/cgroup.controllers');
  const root = version2 ? '/sys/fs/cgroup' : '/sys/fs/cgroup/memory';
  const path = `${root}/smartvpn-test-${process.pid}`;
  const names = version2
    ? { limit: 'memory.max', peak: 'memory.peak' }
    : { limit: 'memory.limit_in_bytes', peak: 'memory.max_usage_in_bytes' };
  try {
    accessSync(root, constants.W_OK);
    mkdirSync(path);
    t.after(() => remove(path));
    writeFileSync(`${path}/${names.limit}`, `${MEMORY_LIMIT}`);
  } catch (error) {
    t.diagnostic(`no memory cgroup: ${error.message}`);
    return null;
  }
  const read = (name) => readFileSync(`${path}/${name}`, 'utf8').trim();
  const failures = () =>
    version2 ? Number(/^max (\d+)$/m.exec(read('memory.events'))[1]) : Number(read('memory.failcnt'));
  return {
    take: (pid) => writeFileSync(`${path}/cgroup.procs`, `${pid}`),
    failures,
    figures: () => {
      const peak = existsSync(`${path}/${names.peak}`)
        ? `${(Number(read(names.peak)) / 2 ** 20).toFixed(1)} MiB`
        : '?';
      return `cgroup v${version2 ? 2 : 1}: peak ${peak}, ${failures()} times at its limit`;
    },
  };
}

/** A group goes when its processes have gone, which the site ends after the test. */
async function remove(path) {
  for (let tries = 0; tries < 100; tries++) {
    try {
      return rmdirSync(path);
    } catch {
      await sleep(100);
    }
  }
}
