/** Servers that cannot be reached, or are not what the client looks for: each has its code and its advice. */
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { createAuthority, createSelfSigned } from '../../scripts/certificates.mjs';
import { assertFails } from './support/assert.mjs';
import { authority, clientConfig, keypair, PORT, requires, SERVER, useSite } from './support/site.mjs';

const DAY_MS = 86_400_000;
const at = (days) => new Date(Date.now() + days * DAY_MS);

describe('a server that cannot be reached', { skip: requires() }, () => {
  const site = useSite();

  it('has a name that does not resolve', async () => {
    await assertConnectFails({ serverUrl: 'wss://vpn.invalid/' }, 'dns-lookup-failed', 'vpn.invalid');
  });

  it('refuses connections', async () => {
    await assertConnectFails({}, 'connection-refused', SERVER.address, `${PORT}`);
  });

  it('has no way to it', async () => {
    await assertConnectFails({ serverUrl: 'wss://203.0.113.9:8443/' }, 'unreachable', '203.0.113.9');
    await site.client.ip(['route del 0.0.0.0/0']);
    await assertConnectFails({}, 'unreachable', SERVER.address);
    await site.client.ip(['route add 0.0.0.0/0 via 10.90.1.1']);
  });

  it('drops what is sent to it', async () => {
    await site.server.exec(['nft', '-f', '-'], {
      input: `table ip firewall { chain in { type filter hook input priority 0; tcp dport ${PORT} drop; }; }`,
    });
    await assertTimesOut();
    await site.server.exec(['nft', 'delete', 'table', 'ip', 'firewall']);
  });

  it('accepts and stays silent', async () => {
    await listen(() => {});
    await assertTimesOut();
    await assertTimesOut({ serverUrl: `ws://${SERVER.address}:${PORT}/` });
  });

  it('accepts the upgrade and stays silent', async () => {
    await listen((socket) => {
      socket.once('data', async (request) => {
        const { createHash } = await import('node:crypto');
        const [, key] = /^sec-websocket-key: *(\S+)/im.exec(String(request));
        const accept = createHash('sha1')
          .update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
          .digest('base64');
        socket.write(
          `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
        );
      });
    });
    await assertTimesOut({ serverUrl: `ws://${SERVER.address}:${PORT}/` });
  });

  it('hangs up', async () => {
    await listen((socket) => socket.destroy());
    await assertConnectFails(
      { serverUrl: `ws://${SERVER.address}:${PORT}/` },
      'connection-lost',
      SERVER.address,
    );
    await assertConnectFails({}, /^(connection-lost|tls-error)$/, SERVER.address);
  });

  async function assertTimesOut(config) {
    const begun = Date.now();
    await assertConnectFails({ connectTimeoutMs: 1_000, ...config }, 'timeout', /time/);
    const elapsed = Date.now() - begun;
    assert.ok(elapsed > 900 && elapsed < 5_000, `${elapsed} ms`);
  }

  const assertConnectFails = connectFails(site);
  const listen = (handler) => listenOn(site, handler);
});

describe('a server that is no VPN server', { skip: requires() }, () => {
  const site = useSite();
  const serverUrl = `ws://${SERVER.address}:${PORT}/`;

  for (const [head, code, ...words] of [
    ['200 OK', 'not-a-vpn-server', '200'],
    ['302 Found\r\nLocation: http://elsewhere.test/', 'not-a-vpn-server', '302'],
    ['404 Not Found', 'not-a-vpn-server', '404'],
    ['407 Proxy Authentication Required', 'proxy-error', '407'],
    ['502 Bad Gateway', 'not-a-vpn-server', '502'],
  ]) {
    it(`answers ${head.split('\r\n')[0]}`, async () => {
      const answer = `HTTP/1.1 ${head}\r\nContent-Length: 0\r\n\r\n`;
      await listenOn(site, (socket, text) => socket.once('data', () => socket.end(text)), answer);
      await connectFails(site)({ serverUrl }, code, ...words);
    });
  }

  it('speaks no HTTP', async () => {
    await listenOn(site, (socket) => socket.end('220 mail.test ESMTP\r\n'));
    await connectFails(site)({ serverUrl }, 'not-a-vpn-server', SERVER.address);
  });

  it('speaks no TLS', async () => {
    await listenOn(site, (socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'));
    await connectFails(site)({}, 'tls-error', 'ws://');
  });

  it('is one, at another path', async () => {
    await site.serve({ path: '/tunnel' });
    await connectFails(site)({}, 'not-a-vpn-server', '404');
    await site.connect({ serverUrl: `wss://${SERVER.address}:${PORT}/tunnel?x=1` });
  });
});

describe('a server that cannot prove who it is', { skip: requires() }, () => {
  const site = useSite();
  const assertConnectFails = connectFails(site);
  const usual = [SERVER.address];

  for (const [what, issue, code, ...words] of [
    [
      'an expired certificate',
      () => authority.issue(usual, { notBefore: at(-9), notAfter: at(-3) }),
      'tls-expired',
      '3 days',
    ],
    [
      'a certificate of the future',
      () => authority.issue(usual, { notBefore: at(3), notAfter: at(9) }),
      'tls-expired',
      'clock',
    ],
    [
      'a certificate for another name',
      () => authority.issue(['other.test']),
      'tls-name-mismatch',
      'other.test',
    ],
    [
      'a certificate of an unknown authority',
      () => createAuthority('another authority').issue(usual),
      'tls-untrusted',
      'tlsCa',
    ],
    [
      'a certificate of an authority of the same name',
      () => createAuthority().issue(usual),
      'tls-untrusted',
      'tlsCa',
    ],
    ['a certificate that it has signed itself', () => createSelfSigned(usual), 'tls-untrusted', 'tlsCa'],
    [
      'a certificate without those between it and the authority',
      () => authority.intermediate('between').issue(usual),
      'tls-untrusted',
    ],
  ]) {
    it(`shows ${what}`, async () => {
      const { certificate, key } = issue();
      const server = await site.serve({ tlsCert: certificate, tlsKey: key });
      await assertConnectFails({}, code, SERVER.address, ...words);
      assert.deepEqual(server.vpn.seen('client-connected'), []);
      assert.equal((await server.vpn.getStatistics()).totalConnections, 0);
    });
  }

  it('shows those between it and the authority', async () => {
    const between = authority.intermediate('between');
    const { certificate, key } = between.issue(usual);
    await site.serve({ tlsCert: certificate + between.certificate, tlsKey: key });
    await site.connect();
  });

  it('speaks TLS 1.1 at most', async () => {
    const seen = await pretend(site, { maxVersion: 'TLSv1.1', minVersion: 'TLSv1' });
    await assertConnectFails({}, 'tls-error', SERVER.address);
    assert.deepEqual(await seen(), { requests: 0, plain: 0 });
  });

  it('is not trusted by the system’s authorities', async () => {
    await site.serve();
    await assertConnectFails({ tlsCa: undefined }, 'tls-untrusted', SERVER.address);
  });

  it('holds another key', async () => {
    const server = await site.serve(keypair());
    await site.server.exec(['nft', '-f', '-'], {
      input: `table ip count { chain in { type filter hook input priority 0; tcp dport ${PORT} tcp flags syn counter; }; }`,
    });
    const agent = await site.agent(site.client);
    const vpn = await agent.startedClient();
    await assertFails(vpn.connect(clientConfig()), 'server-key-mismatch', 'serverPublicKey');
    await sleep(1_500);
    assert.equal((await vpn.getStatus()).state, 'disconnected');
    const { stdout } = await site.server.exec(['nft', 'list', 'table', 'ip', 'count']);
    await site.server.exec(['nft', 'delete', 'table', 'ip', 'count']);
    assert.match(stdout, /counter packets 1 /, 'it is not tried again');
    assert.equal((await server.vpn.getStatistics()).totalConnections, 0);
  });
});

describe('a server behind TLS that sends the client elsewhere', { skip: requires() }, () => {
  const site = useSite();

  for (const [status, code] of [
    [200, 'not-a-vpn-server'],
    [301, 'not-a-vpn-server'],
    [302, 'not-a-vpn-server'],
    [307, 'not-a-vpn-server'],
    [407, 'proxy-error'],
    [426, 'not-a-vpn-server'],
  ]) {
    it(`is not followed into plain text: ${status}`, async () => {
      const seen = await pretend(site, {}, status);
      await connectFails(site)({}, code, `${status}`);
      assert.deepEqual(await seen(), { requests: 1, plain: 0 });
    });
  }
});

describe('after every failure', { skip: requires() }, () => {
  const site = useSite();
  let agent;
  let vpn;

  before(async () => {
    agent = await site.agent(site.client);
    vpn = await agent.startedClient();
  });

  it('the same client connects once the reason is gone', async () => {
    await assertFails(vpn.connect(clientConfig()), 'connection-refused');
    assert.equal((await vpn.getStatus()).state, 'disconnected');
    await site.serve();
    await vpn.connect(clientConfig());
    assert.equal((await vpn.getStatus()).state, 'connected');
    await vpn.disconnect();
    assert.deepEqual(vpn.seen('exit'), []);
    assert.equal(
      vpn.seen('status').some(({ state }) => state === 'error'),
      false,
      'a failure is told once',
    );
  });
});

/** Asserts that a new client cannot connect, and that it is told so once. */
function connectFails(site) {
  return async (config, code, ...words) => {
    const agent = await site.agent(site.client);
    const vpn = await agent.startedClient();
    const error = await assertFails(vpn.connect(clientConfig(config)), code, ...words);
    assert.equal((await vpn.getStatus()).state, 'disconnected');
    await agent.close();
    return error;
  };
}

/**
 * Is a TLS server with the site's certificate at the server's address, which answers requests with a status and sends
 * whoever asks to its port for plain text. Resolves with a function that tells what came.
 */
async function pretend(site, options, status) {
  const agent = await site.agent(site.server);
  const { certificate: cert, key } = authority.issue([SERVER.address]);
  const seen = { requests: 0, plain: 0 };
  await agent.run(
    async ({ load }, address, [port, plainPort], tls, answer, counts) => {
      const [https, net] = await Promise.all([load('node:https'), load('node:net')]);
      globalThis.counts = counts;
      const plain = net.createServer((socket) => {
        counts.plain++;
        socket.destroy();
      });
      const server = https.createServer({ ...tls, ciphers: 'DEFAULT:@SECLEVEL=0' });
      server.on('tlsClientError', () => {});
      const respond = (request, socket) => {
        counts.requests++;
        const head = `HTTP/1.1 ${answer} X\r\nLocation: ws://${address}:${plainPort}/\r\nContent-Length: 0\r\n\r\n`;
        socket.end(head);
      };
      server.on('upgrade', respond);
      await Promise.all([
        new Promise((resolve) => plain.listen(plainPort, address, resolve)),
        new Promise((resolve) => server.listen(port, address, resolve)),
      ]);
    },
    SERVER.address,
    [PORT, 80],
    { cert, key, ...options },
    status,
    seen,
  );
  return () => agent.run(() => globalThis.counts);
}

/** Listens on the server's port, and does with each connection what the handler says; it is sent as text. */
async function listenOn(site, handler, argument) {
  const agent = await site.agent(site.server);
  const serve = `async ({ load }, port, address, argument) => {
    const { createServer } = await load('node:net');
    const handler = ${handler};
    const server = createServer((socket) => {
      socket.on('error', () => {});
      handler(socket, argument);
    });
    await new Promise((resolve) => server.listen(port, address, resolve));
  }`;
  await agent.run(serve, PORT, SERVER.address, argument);
}
