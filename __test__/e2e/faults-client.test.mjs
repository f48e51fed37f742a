/** Clients that move to another network, or do not run for a while, during a download. */
import { afterEach, beforeEach, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { endure, STALL_MS } from './support/faults.mjs';
import { moment } from './support/flow.mjs';
import { endAll } from './support/program.mjs';
import { LONG, requires, useSite } from './support/site.mjs';

/** How long nothing is done to the tunnel, so that each cause has its own stall. */
const REST_MS = STALL_MS + 1_000;

/** The client's uplinks, as lab-site.mjs makes the first. */
const FIRST = { device: 'eth0', network: '10.90.1', address: '10.90.1.2', network6: 'fd90:1:' };
const SECOND = { device: 'eth1', network: '10.91.1' };

describe('a download survives that its client', { skip: requires() }, () => {
  const site = useSite();
  beforeEach(async () => {
    await site.serveWeb();
    await site.serve();
  });
  afterEach(() => endAll('SIGKILL'));

  it('moves from network to network', async (t) => {
    await addUplink(site);
    try {
      const client = await site.connect();
      const rounds = LONG ? 5 : 1;
      const moves = Object.entries(MOVES);
      await endure(t, site, client, { seconds: 3 + rounds * moves.length * 5 }, async ({ cause }) => {
        for (let round = 0; round < rounds; round++) {
          for (const [what, move] of moves) {
            await sleep(500);
            await cause(what, () => move(site.client).then(moment));
            await sleep(REST_MS);
          }
        }
      });
      await client.agent.close();
    } finally {
      await removeUplink(site);
    }
  });

  it('does not run for a while', async (t) => {
    const client = await site.connect();
    const ms = LONG ? 40_000 : 12_000;
    // What came for a process that does not run has waited in the kernel, and is as old as it is.
    const options = { seconds: 10, patienceMs: 3 * ms + 30_000, lateAtMost: Infinity };
    await endure(t, site, client, options, async ({ cause }) => {
      await sleep(2_000);
      const asleep = async () => {
        process.kill(client.agent.pid, 'SIGSTOP');
        await sleep(ms);
        process.kill(client.agent.pid, 'SIGCONT');
      };
      // The sender's own time-out doubles with each try, so that its next one may be as far away again.
      await cause(`stopped for ${ms} ms`, asleep, { tcpStallMs: ms + STALL_MS });
      await sleep(REST_MS);
    });
  });
});

/** Ways to move, each from where the one before has left the client; after the last comes the first again. */
const MOVES = {
  async 'to another address of the first network'(host) {
    const { stdout } = await host.exec(['ip', '-4', 'address', 'show', 'dev', FIRST.device]);
    const [from, to] = stdout.includes(`${FIRST.address}/24`) ? [2, 3] : [3, 2];
    await host.ip([
      `addr del ${FIRST.network}.${from}/24 dev ${FIRST.device}`,
      `addr add ${FIRST.network}.${to}/24 dev ${FIRST.device}`,
      toFirst,
    ]);
  },
  async 'to the second, as the first goes down'(host) {
    await host.ip([`link set ${FIRST.device} down`]);
  },
  async 'back to the first, as that comes up'(host) {
    await host.ip([`link set ${FIRST.device} up`, toFirst]);
  },
  async 'to the second, as the default route goes there'(host) {
    await host.ip([`route del default dev ${FIRST.device}`]);
  },
};

const toFirst = `route replace default via ${FIRST.network}.1 dev ${FIRST.device}`;

/** Gives the client a second way to the internet, which lets no address pass that is of the other network. */
async function addUplink(site) {
  const { client, internet } = site;
  await site.cable(
    { host: client, name: SECOND.device, addresses: [`${SECOND.network}.2/24`] },
    { host: internet, name: 'port91', addresses: [`${SECOND.network}.1/24`] },
  );
  await client.ip([`route add default via ${SECOND.network}.1 dev ${SECOND.device} metric 200`]);
  await internet.exec(['nft', '-f', '-'], {
    input: `table ip sources {
      chain forward {
        type filter hook forward priority 0;
        iifname port1 ip saddr != ${FIRST.network}.0/24 drop
        iifname port91 ip saddr != ${SECOND.network}.0/24 drop
      }
    }`,
  });
}

/** Takes it away, and makes the first one as it was. */
async function removeUplink({ client, internet }) {
  await internet.exec(['nft', 'delete', 'table', 'ip', 'sources'], { check: false });
  await client.sh(`
    ip link del ${SECOND.device} 2>/dev/null || true
    ip link set ${FIRST.device} up
    ip addr flush dev ${FIRST.device} scope global
    ip addr add ${FIRST.address}/24 dev ${FIRST.device}
    ip addr add ${FIRST.network6}:2/64 dev ${FIRST.device}
    ip route replace default via ${FIRST.network}.1 dev ${FIRST.device}
    ip route replace ::/0 via ${FIRST.network6}:1 dev ${FIRST.device}
  `);
}
