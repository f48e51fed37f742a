/** What packets cost in system calls, counted by strace at the daemon of either end. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { afterEach, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { bulk } from './support/load.mjs';
import { daemonOf, endAll, start } from './support/program.mjs';
import { missingDaemon, requires, TUNNEL, useSite } from './support/site.mjs';
import { eventually } from './support/traffic.mjs';

/** For how long calls are counted, in milliseconds. */
const WINDOW_MS = 2_000;

/** An IPv4 packet of 64 bytes, as the data of a datagram. */
const SMALL = 36;

/** What no packet needs: memory, and other threads. */
const NOT_FOR_PACKETS = ['brk', 'mmap', 'munmap', 'mremap', 'madvise', 'futex', 'clone', 'clone3'];

/** Calls for each packet, by load and end; a TUN is read packet by packet, unless they are super-packets. */
const MOST = {
  'small datagrams': { client: 1.3, server: 0.7 },
  'TCP up': { client: 0.4, server: 0.4 },
  'TCP down': { client: 0.4, server: 0.4 },
};

/** In which direction a load's packets go; what comes back are acknowledgements. */
const LOADS = {
  'small datagrams': { args: ['--udp', '--bitrate', '0', '--length', `${SMALL}`] },
  'TCP up': {},
  'TCP down': { reverse: true },
};

describe('system calls', { skip: requires('iperf3', 'strace') || missingDaemon() }, () => {
  const site = useSite({ transport: 'stdio' });
  const ends = {};

  before(async () => {
    ends.server = await site.serve();
    ends.client = await site.connect();
  });

  afterEach(() => endAll('SIGKILL'));

  for (const [load, options] of Object.entries(LOADS)) {
    for (const end of ['client', 'server']) {
      it(`are few for each packet at the ${end}: ${load}`, async (t) => {
        const running = await bulk(site.client, site.server, TUNNEL.server, options);
        await sleep(1_000);
        const counted = await count(t, ends[end]);
        await running.stop();
        if (!counted) return;
        const { packets, calls } = counted;
        const sum = Object.values(calls).reduce((one, other) => one + other, 0);
        const often = Object.entries(calls).filter(([, times]) => times > packets / 1000);
        t.diagnostic(
          `${packets} packets, ${sum} calls: ${(sum / packets).toFixed(3)} each ` +
            `(${often.map(([name, times]) => `${name} ${(times / packets).toFixed(3)}`).join(', ')})`,
        );
        assert.ok(packets > 2_000, `${packets} packets were carried`);
        assert.ok(sum / packets <= MOST[load][end], `${sum} calls for ${packets} packets`);
        for (const name of NOT_FOR_PACKETS) {
          const times = calls[name] ?? 0;
          assert.ok(times < packets / 100, `${times} of ${name} for ${packets} packets`);
        }
      });
    }
  }

  /** The system calls of a daemon and the packets that it carried or dropped meanwhile. */
  async function count(t, { agent, vpn }) {
    const pid = daemonOf(agent);
    const threads = readdirSync(`/proc/${pid}/task`).length;
    const strace = start(site.internet, ['strace', '-f', '-c', '-U', 'name,calls', '-p', `${pid}`]);
    try {
      await eventually(() => {
        assert.ok(strace.child.exitCode === null && !/not permitted/.test(strace.output()), strace.output());
        assert.equal((strace.output().match(/ attached/g) ?? []).length > 0, true, strace.output());
        assert.ok(traced(pid) >= threads, strace.output());
      }, 10_000);
    } catch (error) {
      if (!/not permitted/.test(strace.output())) throw error;
      t.skip(`No process may be traced here: ${strace.output().trim()}`);
      return undefined;
    }
    const earlier = await vpn.getStatistics();
    await sleep(WINDOW_MS);
    const later = await vpn.getStatistics();
    strace.child.kill('SIGINT');
    await once(strace.child, 'close');
    const calls = Object.fromEntries(
      Array.from(strace.output().matchAll(/^\s*([a-z]\w*)\s+(\d+)\s*$/gm), ([, name, times]) => [
        name,
        Number(times),
      ]).filter(([name]) => name !== 'total'),
    );
    const carried = (statistics) =>
      statistics.packetsSent + statistics.packetsReceived + (statistics.packetsDropped ?? 0);
    return { calls, packets: carried(later) - carried(earlier) };
  }
});

/** How many threads of a process are traced. */
function traced(pid) {
  return readdirSync(`/proc/${pid}/task`).filter(
    (thread) => !/^TracerPid:\s+0$/m.test(readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8')),
  ).length;
}
