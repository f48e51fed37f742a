/** A server behind the proxies that the README has a snippet for, set up with that snippet. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { digest } from '../../scripts/lab-web.mjs';
import { endsTls, missingProxy, NAME, PROXIES, serverSettings, startProxy } from './support/proxies.mjs';
import { LONG, SERVER, TUNNEL, useSite, WEB } from './support/site.mjs';
import { eventually, fetchDigest, ping, reaches } from './support/traffic.mjs';

/** Of the file that is fetched through each proxy, in bytes. */
const FILE_SIZE = 32 * 2 ** 20;

/** Where the first client comes from, however its port is told. */
const CLIENT = /^10\.90\.1\.2:\d+$/;

/** The proxy, for `tls.connect()`. */
const FRONT = { host: SERVER.address, port: 443, servername: NAME };

/** Where the relay listens that adds to what a client says. */
const RELAY_PORT = 8080;

/** Short delays, so that a test does not wait for the default back-off. */
const RECONNECT = { baseDelayMs: 100, maxDelayMs: 300 };

for (const name of Object.keys(PROXIES)) {
  describe(`behind ${name}`, { skip: missingProxy(name) }, () => {
    const { site, serve, connect, proxy } = useProxy(name);

    it('packets pass, and a file whole', async () => {
      await serve();
      await site.serveWeb();
      await connect();
      assert.equal(await reaches(site.client, TUNNEL.server), true);
      const sha256 = await fetchDigest(site.client, `http://${WEB.address}/random/${FILE_SIZE}`);
      assert.equal(sha256, digest(FILE_SIZE));
    });

    it('the server knows where its clients are', async () => {
      const { vpn } = await serve();
      await connect();
      const [{ remoteAddr }] = await vpn.listClients();
      assert.match(remoteAddr, CLIENT);
    });

    it('a client cannot pass for another', async () => {
      const { vpn } = await serve();
      const relay = await site.agent(site.client);
      await relay.run(relayWith, {
        port: RELAY_PORT,
        to: FRONT,
        header: 'X-Forwarded-For: 198.51.100.9',
      });
      await connect({ serverUrl: `ws://127.0.0.1:${RELAY_PORT}/` });
      const [{ remoteAddr }] = await vpn.listClients();
      assert.match(remoteAddr, CLIENT);
    });

    it('a reload, as for a new certificate, leaves the tunnel usable, and lets others come', async (t) => {
      await serve();
      const { agent, vpn } = await connect();
      vpn.forget();
      for (let round = 0; round < 3; round++) {
        const { fingerprint256 } = new X509Certificate(await proxy().renew());
        if (endsTls(name)) {
          await eventually(async () => assert.equal(await agent.run(readFingerprint, FRONT), fingerprint256));
        }
        await eventually(async () => assert.equal(await reaches(site.client, TUNNEL.server), true));
      }
      t.diagnostic(`the tunnel was cut ${cutsOf(vpn)} times by 3 reloads`);
      await vpn.disconnect();
      await vpn.connect();
      assert.equal(await reaches(site.client, TUNNEL.server), true);
    });
  });
}

// Each has hosts of its own, so that all can be idle at the same time.
describe('an idle tunnel', { concurrency: Object.keys(PROXIES).length }, () => {
  for (const [name, { impatience, cuts = 0 }] of Object.entries(PROXIES)) {
    const skip = missingProxy(name);
    if (LONG) {
      describe(`behind ${name} as Debian has it`, { skip, concurrency: 1 }, () => {
        const { site, serve, connect } = useProxy(name);

        it(`is cut ${cuts === 0 ? 'never' : 'once at most'} in ten minutes`, async (t) => {
          await serve();
          const { vpn } = await connect({ keepaliveIntervalSecs: 60 });
          await sleep(10 * 60_000);
          t.diagnostic(`${cutsOf(vpn)} cuts`);
          assert.ok(cutsOf(vpn) <= cuts, `it was cut ${cutsOf(vpn)} times`);
          await assertAnswersAtOnce(site.client);
        });
      });
    }
    if (impatience) {
      describe(`behind ${name} that is impatient`, { skip, concurrency: 1 }, () => {
        const { site, serve, connect } = useProxy(name, { impatient: true });

        it('is cut once, and from then on keeps ahead', async () => {
          await serve();
          const { vpn } = await connect({ keepaliveIntervalSecs: 10 });
          await vpn.event('status', isCut, 15_000);
          await sleep(25_000);
          assert.equal(cutsOf(vpn), 1);
          await assertAnswersAtOnce(site.client);
        });
      });
    }
  }
});

/** A site with a proxy on its server's host, for as long as the suite runs. */
function useProxy(name, options) {
  const site = useSite();
  let proxy;
  before(async () => {
    proxy = await startProxy(site, name, options);
  });
  after(() => proxy?.end());
  return {
    site,
    proxy: () => proxy,
    serve: () => site.serve({ tlsCert: undefined, tlsKey: undefined, ...serverSettings(name) }),
    connect: (config) => site.connect({ serverUrl: `wss://${NAME}/`, reconnect: RECONNECT, ...config }),
  };
}

function isCut({ state }) {
  return state === 'reconnecting';
}

function cutsOf(vpn) {
  return vpn.seen('status').filter(isCut).length;
}

async function assertAnswersAtOnce(client) {
  const { received, output } = await ping(client, TUNNEL.server, { count: 1 }); // waits for a second
  assert.equal(received, 1, output);
}

// What follows runs in an agent, and sees nothing of its surroundings here.

/** The certificate that a TLS server shows, by its fingerprint. */
async function readFingerprint({ load }, to) {
  const { connect } = await load('node:tls');
  return new Promise((resolve, reject) => {
    const socket = connect({ ...to, rejectUnauthorized: false }, () => {
      resolve(socket.getPeerX509Certificate().fingerprint256);
      socket.destroy();
    });
    socket.once('error', reject);
  });
}

/** Relays to a TLS server, and adds a header to the request that each connection begins with. */
async function relayWith({ load }, { port, to, header }) {
  const { createServer } = await load('node:net');
  const { connect } = await load('node:tls');
  const server = createServer((near) => {
    const far = connect({ ...to, rejectUnauthorized: false });
    for (const [one, other] of [
      [near, far],
      [far, near],
    ]) {
      one.on('error', () => other.destroy());
      one.on('close', () => other.destroy());
    }
    near.once('data', (request) => {
      const text = request.toString('latin1');
      far.write(text.replace(/^Host: .*\r\n/m, `Host: ${to.servername}\r\n${header}\r\n`), 'latin1');
      near.pipe(far);
      far.pipe(near);
    });
  });
  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
}
