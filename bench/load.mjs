/** The load: iperf3 and ping from the client through the tunnel, each with an end. */
import { TUNNEL } from './site.mjs';

export const IPERF_PORT = 5201;

/** The seconds at the beginning of a transfer that do not count. */
export const OMITTED_SECS = 1;

/** What iperf3 may take besides the transfer. */
const SPARE_MS = 15_000;

/** Of IPv4 and UDP. */
const HEADERS = 28;

/** The payload of a datagram that fills the tunnel's MTU. */
export const FULL_PAYLOAD = TUNNEL.mtu - HEADERS;

/**
 * Runs iperf3.
 *
 * @param {import('./site.mjs').Site} site
 * @param {string} address the server's
 * @param {number} seconds
 * @param {string[]} args further ones
 * @returns {Promise<object>} its report
 */
export async function iperf(site, address, seconds, args) {
  const server = site.startLoad(site.server, [
    'iperf3', '--server', '--one-off', '--bind', address, '--port', `${IPERF_PORT}`,
  ]); // prettier-ignore
  try {
    await site.listens(site.server, server, 'tcp', IPERF_PORT);
    const argv = [
      'iperf3', '--json', '--client', address, '--port', `${IPERF_PORT}`, '--connect-timeout', '5000',
      '--omit', `${OMITTED_SECS}`, '--time', `${seconds}`, ...args,
    ]; // prettier-ignore
    const timeoutMs = (OMITTED_SECS + seconds) * 1000 + SPARE_MS;
    const { stdout, signal } = await site.client.exec(argv, { check: false, timeoutMs });
    if (signal) throw new Error(`iperf3 did not end within ${timeoutMs / 1000} s.`);
    const report = JSON.parse(stdout);
    if (report.error) throw new Error(`iperf3: ${report.error}`);
    return report;
  } finally {
    server.child.kill('SIGKILL');
  }
}

/**
 * Sends echo requests.
 *
 * @returns {Promise<number[]>} the round-trip times in milliseconds
 */
export async function ping(site, address, count, intervalMs) {
  // Timers of the kernel make the interval up to twice as long.
  const timeoutMs = 2 * count * intervalMs + 5_000;
  const argv = ['ping', '-n', '-c', `${count}`, '-i', `${intervalMs / 1000}`, '-W', '2', address];
  const { stdout } = await site.client.exec(argv, { check: false, timeoutMs });
  const times = Array.from(stdout.matchAll(/time=([\d.]+) ms/g), ([, ms]) => Number(ms));
  if (times.length < count / 10) throw new Error(`${times.length} of ${count} echo requests were answered.`);
  return times;
}
