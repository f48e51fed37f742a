/** Measures tunnels from end to end: each peer in each case on a network of its own, in turns. */
import { setTimeout as sleep } from 'node:timers/promises';

import { Lab } from '../scripts/lab.mjs';
import { missingTools } from '../scripts/tools.mjs';
import { CASES } from './cases.mjs';
import { allowCongestionControl } from './congestion.mjs';
import { busyShare, busySince } from './figures.mjs';
import { PEERS } from './peers.mjs';
import { Site, TUNNEL } from './site.mjs';

/** How long the machine is looked at before each case. */
const LOOK_MS = 500;

/** The time between the first reply and the load. */
const SETTLE_MS = 300;

/** Why nothing can be measured here, or `null`. */
export function obstacle() {
  if (process.getuid?.() !== 0) return 'Measuring from end to end needs root: `sudo npm run bench`.';
  return missingTools(['ip', 'iperf3', 'ping']) ?? Lab.unavailable();
}

/** What is there of the peers asked for; says what is not, and why. */
export function findPeers(names) {
  return PEERS.filter(({ name, find }) => {
    if (!names.includes(name)) return false;
    const reason = find();
    if (reason) console.log(`Left out: ${name}: ${reason}`);
    return reason === null;
  });
}

/**
 * @param {{ rounds: number, seconds: number, cases: string[], peers: string[] }} options
 * @param {(row: object) => void} write
 * @param {(site: Site | null) => void} hold told what there is to close
 * @returns {Promise<number>} how many cases failed
 */
export async function measureAll({ rounds, seconds, cases, peers }, write, hold) {
  const there = findPeers(peers).map((peer) => ({ peer, version: peer.version() }));
  allowCongestionControl();
  let failed = 0;
  for (let round = 1; round <= rounds; round++) {
    for (const name of cases) {
      for (const { peer, version } of there) {
        if (!CASES[name].kinds.includes(peer.kind)) continue;
        const row = { kind: 'result', round, peer: peer.name, case: name };
        const outcome = await measure(peer, CASES[name], seconds, hold);
        if (outcome.error) failed++;
        write({ ...row, ...outcome, seconds, version, time: new Date().toISOString() });
      }
    }
  }
  return failed;
}

async function measure(peer, { measure: measureCase }, seconds, hold) {
  let site;
  try {
    site = await Site.open();
    hold(site);
    const before = await busyShare(LOOK_MS);
    const { tunnel, ...connected } = await connect(site, peer);
    const metrics = await measureCase({ site, tunnel, seconds, ...connected });
    await tunnel.close();
    return { metrics, load_before: before };
  } catch (error) {
    return { error: [error.message, ...(site?.lastWords() ?? [])].join('\n') };
  } finally {
    hold(null);
    await site?.close();
  }
}

async function connect(site, peer) {
  const share = busySince();
  if (peer.kind !== 'tunnel') return { tunnel: await peer.start(site) };
  const [replied, tunnel] = await Promise.all([site.firstReply(TUNNEL.server), peer.start(site)]);
  const connected = { tunnel, connectMs: replied - site.clientStarted, connectBusy: share() };
  for (const host of [site.client, site.server]) await checkMtu(host);
  await sleep(SETTLE_MS);
  return connected;
}

/** All tunnels have the same, lest they differ in what one packet carries. */
async function checkMtu(host) {
  const subnet = `${TUNNEL.network}/${TUNNEL.prefix}`;
  const { stdout } = await host.exec(['ip', '-j', 'address', 'show', 'to', subnet]);
  const [device] = JSON.parse(stdout).filter(({ ifname }) => ifname);
  if (device?.mtu !== TUNNEL.mtu) {
    throw new Error(`The MTU of ${device?.ifname} on the ${host.name} is ${device?.mtu}, not ${TUNNEL.mtu}.`);
  }
}
