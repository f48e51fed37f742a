/** A server with several clients works on several cores. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { afterEach, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { bulk } from './support/load.mjs';
import { daemonOf, endAll } from './support/program.mjs';
import { LONG, missingDaemon, requires, TUNNEL, useSite } from './support/site.mjs';

/** The name of the threads that carry packets. */
const DATA = 'smartvpn-data';

const WINDOW_MS = LONG ? 10_000 : 2_000;

/** What each of two busy clients' threads does at least of the work. */
const FAIR = 0.15;

const oneCore = availableParallelism() < 2 && 'There is one core only.';

describe('a server', { skip: oneCore || requires('iperf3') || missingDaemon() }, () => {
  const site = useSite({ clients: 2, transport: 'stdio' });

  afterEach(() => endAll('SIGKILL'));

  for (const reverse of [true, false]) {
    it(`carries two busy clients on two threads, ${reverse ? 'down' : 'up'}`, async (t) => {
      const { agent } = await site.serve();
      const pid = daemonOf(agent);
      for (const host of site.clients) await site.connect({}, { host });
      for (const host of site.clients) await bulk(host, site.server, TUNNEL.server, { reverse });
      await sleep(500);
      const earlier = dataTicks(pid);
      await sleep(WINDOW_MS);
      const spent = dataTicks(pid).map((ticks, index) => ticks - earlier[index]);
      const all = spent.reduce((one, other) => one + other, 0);
      const shares = spent.map((ticks) => ticks / all).toSorted((a, b) => b - a);
      t.diagnostic(
        `${spent.length} threads, ${all} ticks: ${shares.map((share) => `${(100 * share).toFixed(0)} %`).join(', ')}`,
      );
      assert.ok(all > 10, `they did something: ${all} ticks`);
      assert.ok(shares[1] > FAIR, `the second did ${shares[1]} of the work`);
    });
  }
});

/** The time that each data thread of a process has used, in the kernel's ticks. */
function dataTicks(pid) {
  return readdirSync(`/proc/${pid}/task`)
    .filter((thread) => readFileSync(`/proc/${pid}/task/${thread}/comm`, 'utf8').trim() === DATA)
    .map((thread) => {
      const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8');
      // Behind the name, which may hold anything: the state is field 3, the times are 14 and 15.
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return Number(fields[11]) + Number(fields[12]);
    });
}
