/** Hosts and configurations that a VPN cannot run on: each has its code and its advice, and nothing is left. */
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';

import { assertFails } from './support/assert.mjs';
import {
  clientConfig,
  keypair,
  PORT,
  requires,
  SERVER,
  serverConfig,
  TUNNEL,
  useSite,
  WEB,
} from './support/site.mjs';
import { interfaceWith, reaches } from './support/traffic.mjs';

/** Wraps a command so that it runs without the right to change the network. */
const WITHOUT_RIGHTS = {
  CAP_NET_ADMIN: ['setpriv', '--bounding-set=-net_admin', '--inh-caps=-net_admin', '--'],
  root: ['setpriv', '--bounding-set=-all', '--inh-caps=-all', '--'],
};

/** Wraps a command so that it finds no TUN device, and cannot make one. */
const WITHOUT_TUN = [
  'unshare',
  '--mount',
  'sh',
  '-c',
  'mount -t tmpfs -o ro none /dev/net && exec "$@"',
  'sh',
];

describe('a host that is not fit', { skip: requires() }, () => {
  const site = useSite();

  for (const [right, wrap] of Object.entries(WITHOUT_RIGHTS)) {
    it(`gives a client no ${right}`, async () => {
      await site.serve();
      const vpn = await (await site.agent(site.client, { wrap })).startedClient();
      await assertFails(vpn.connect(clientConfig({ stateDir: null })), 'permission-denied', 'CAP_NET_ADMIN');
    });

    it(`gives a server no ${right}`, async () => {
      const vpn = await (await site.agent(site.server, { wrap })).server();
      await assertFails(vpn.start(serverConfig({ stateDir: null })), 'permission-denied', 'CAP_NET_ADMIN');
    });
  }

  it('has no TUN device for a client', async () => {
    await site.serve();
    const vpn = await (await site.agent(site.client, { wrap: WITHOUT_TUN })).startedClient();
    await assertFails(vpn.connect(clientConfig()), 'tun-unavailable', '/dev/net/tun', 'modprobe');
  });

  it('has no TUN device for a server, which gives its port back', async () => {
    const vpn = await (await site.agent(site.server, { wrap: WITHOUT_TUN })).server();
    await assertFails(vpn.start(serverConfig()), 'tun-unavailable', '/dev/net/tun', 'modprobe');
    await site.serve();
  });

  it('has the port taken', async () => {
    await site.serve();
    await assertStartFails({ subnet: '10.9.0.0/24' }, 'address-in-use', `${SERVER.address}:${PORT}`);
    assert.equal(await connects(), true, 'the first server is unhurt');
  });

  it('has no such address to listen on', async () => {
    await assertStartFails({ listenAddr: `192.0.2.1:${PORT}` }, 'invalid-config', '192.0.2.1');
  });

  it('uses the subnet already, as its own or by a route', async () => {
    await assertStartFails({ subnet: '203.0.113.0/24' }, 'subnet-conflict', '203.0.113.0/24', 'lan');
    await assertStartFails({ subnet: '203.0.113.128/25' }, 'subnet-conflict');
    await assertStartFails({ subnet: '10.0.0.0/8' }, 'subnet-conflict', 'eth0');
    await assertStartFails({ subnet6: '2001:db8:113::/64' }, 'subnet-conflict', 'lan');
    await site.server.ip(['route add 10.8.0.128/25 via 203.0.113.2']);
    await assertStartFails({}, 'subnet-conflict', '10.8.0.128/25');
    await site.server.ip(['route del 10.8.0.128/25']);
  });

  it('serves the subnet already', async () => {
    await site.serve();
    await assertStartFails({ listenAddr: `${SERVER.address}:8444` }, 'subnet-conflict', TUNNEL.subnet);
    assert.equal(await connects(), true, 'the first server is unhurt');
  });

  it('has an interface of that name', async () => {
    await site.serve({ tunName: 'vpn-a' });
    await assertStartFails(
      { tunName: 'vpn-a', subnet: '10.9.0.0/24', listenAddr: `${SERVER.address}:8444` },
      'tun-name-in-use',
      'vpn-a',
    );
    // A persistent TUN that nobody holds could be taken over, but is somebody else's.
    for (const kind of ['link add vpn-b type veth peer name vpn-c', 'tuntap add dev vpn-b mode tun']) {
      await site.client.ip([kind]);
      await assertConnectFails({ tunName: 'vpn-b' }, 'tun-name-in-use', 'vpn-b');
      await site.client.ip(['link del vpn-b']);
    }
    await site.connect({ tunName: 'vpn-b' });
  });

  it('has a route of its own to what the client wants', async () => {
    await site.serve();
    await site.client.ip([`route add ${WEB.network} via 10.90.1.1 metric 0`]);
    const agent = await site.agent(site.client);
    const vpn = await agent.startedClient();
    const outcome = await vpn.connect(clientConfig()).then(
      () => 'connected',
      ({ code }) => code,
    );
    assert.equal(outcome, 'route-failed');
    await vpn.close();
    const { stdout } = await site.client.exec(['ip', 'route', 'show', WEB.network]);
    assert.match(stdout, /via 10\.90\.1\.1 dev eth0/, 'it is untouched');
    await site.client.ip([`route del ${WEB.network}`]);
  });

  it('has its interface deleted under the client', async () => {
    await site.serve();
    const { vpn, assignedIp, config } = await site.connect({ routes: ['0.0.0.0/0'] });
    await deleteInterface(site.client, assignedIp);
    const status = await vpn.event('status', ({ state }) => state === 'error');
    assert.equal(status.lastErrorCode, 'tun-unavailable');
    await site.assertAsFound(site.client);
    await vpn.connect(config);
    assert.equal(await reaches(site.client, TUNNEL.server), true);
  });

  it('has its interface deleted under the server', async () => {
    const { vpn, config } = await site.serve();
    await deleteInterface(site.server, TUNNEL.server);
    const status = await vpn.event('status', ({ state }) => state === 'error');
    assert.equal(status.lastErrorCode, 'tun-unavailable');
    await site.assertAsFound(site.server);
    await vpn.start(config);
    assert.equal(await connects(), true);
  });

  const assertStartFails = async (config, code, ...words) => {
    const agent = await site.agent(site.server);
    const vpn = await agent.server();
    await assertFails(vpn.start(serverConfig(config)), code, ...words);
    assert.deepEqual(vpn.seen('exit'), [], 'a failure is told once');
    await agent.close();
  };

  const assertConnectFails = async (config, code, ...words) => {
    const agent = await site.agent(site.client);
    const vpn = await agent.startedClient();
    await assertFails(vpn.connect(clientConfig(config)), code, ...words);
    await agent.close();
  };

  const connects = async () => {
    const { agent } = await site.connect();
    const works = await reaches(site.client, TUNNEL.server);
    await agent.close();
    return works;
  };
});

describe('a configuration that is wrong', { skip: requires() }, () => {
  const site = useSite();
  let client;
  let server;

  before(async () => {
    client = await (await site.agent(site.client)).startedClient();
    server = await (await site.agent(site.server)).server();
  });

  const { privateKey } = keypair();

  for (const [path, value, ...words] of [
    ['serverUrl', 'http://vpn.test/', 'wss://'],
    ['serverUrl', ''],
    ['serverUrl', undefined],
    ['serverPublicKey', 'not a key'],
    ['serverPublicKey', Buffer.alloc(31).toString('base64')],
    ['serverPublicKey', `${keypair().publicKey}\n`],
    ['mtu', 575, '576'],
    ['mtu', 65_536, '65535'],
    ['mtu', 1420.5],
    ['keepaliveIntervalSecs', 4, '5'],
    ['keepaliveIntervalSecs', 121, '120'],
    ['routes[1]', ['10.0.0.0/8', 'nonsense']],
    ['dns[0]', ['nonsense']],
    ['tunName', 'with space'],
    ['tunName', '../../etc/passwd'],
    ['tunName', 'a-name-that-is-too-long'],
    ['tlsCa', '-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n'],
    ['serverURL', 'wss://vpn.test/', 'serverUrl'],
    ['rotues', [], 'routes'],
    ['connectTimeoutMs', -1],
    ['proxy', 'https://proxy.test:3128', 'http://'],
    ['proxy', 'socks5://proxy.test:1080', 'http://'],
    ['proxy', 'http://proxy.test', 'port'],
    ['token', 'two words'],
    ['privateKey', 'not a key', '32 bytes'],
  ]) {
    it(`of a client: ${path} = ${JSON.stringify(value)}`, async () => {
      const key = path.replace(/\[.*/, '');
      const error = await assertFails(
        client.connect(clientConfig({ [key]: value })),
        'invalid-config',
        ...words,
      );
      assert.equal(error.path, path, error.message);
      assert.ok(error.message.includes(key), error.message);
    });
  }

  for (const [path, value, ...words] of [
    ['listenAddr', 'nonsense'],
    ['listenAddr', undefined],
    ['privateKey', 'not a key'],
    ['publicKey', keypair().publicKey, 'privateKey'],
    ['subnet', '10.8.0.0/31', '/30'],
    ['subnet', '10.8.0.0/7', '/8'],
    ['subnet', 'fd08::/64'],
    ['subnet6', 'fd08::/63', '/64'],
    ['subnet6', 'fd08::/126', '/125'],
    ['tlsCert', undefined, 'tlsKey'],
    ['tlsKey', '/does/not/exist'],
    ['defaultRateLimitBytesPerSec', 999],
    ['defaultRateLimitBytesPerSec', 10 ** 11 + 1],
    ['defaultBurstBytes', 65_535],
    ['defaultBurstBytes', 65_536, 'defaultRateLimitBytesPerSec'],
    ['maxClients', 0],
    ['path', 'no-slash'],
    ['trustedProxies[0]', ['nonsense']],
    ['proxyProtocol', true, 'trustedProxies'],
    ['enableNAT', true, 'enableNat'],
    ['auth', 'closed', '"open"'],
    ['authenticate', true, 'function'],
    ['clients[0].id', [{ id: 'a b', publicKey: keypair().publicKey }]],
    [
      'clients[0].assignedIp',
      [{ id: 'a', publicKey: keypair().publicKey, assignedIp: '10.9.0.2' }],
      '10.8.0.254',
    ],
    ['clients', { a: 1 }, 'list'],
    ['authenticateTimeoutMs', 99, '100'],
    ['publicUrl', 'https://vpn.test/', 'wss://'],
    ['handshakesPerSecond', 0, '1'],
  ]) {
    it(`of a server: ${path} = ${JSON.stringify(value)}`, async () => {
      const key = path.replace(/\[.*/, '');
      const failing = server.start(serverConfig({ [key]: value }));
      const error = await assertFails(failing, /^(invalid-config|file-error)$/, ...words);
      if (error.code === 'invalid-config') assert.ok(error.message.includes(key), error.message);
    });
  }

  it('never shows a secret', async () => {
    for (const config of [
      { publicKey: keypair().publicKey, privateKey },
      { privateKey, subnet: 'nonsense' },
      { privateKey: `${privateKey}x` },
      // The two taken for each other.
      { publicKey: privateKey, privateKey: keypair().privateKey },
      { publicKey: `${privateKey}=` },
    ]) {
      const error = await assertFails(server.start(serverConfig(config)), 'invalid-config');
      assert.ok(!JSON.stringify([error.message, error.stack]).includes(privateKey.slice(0, 20)));
    }
  });

  it('of a file that is not there or not JSON', async () => {
    const agent = await site.agent(site.client);
    const load = (path) =>
      agent.run(async (context, name) => (await context.load()).VpnConfig.loadFromFile(name), path);
    await assertFails(load('/does/not/exist.json'), 'file-error', '/does/not/exist.json');
    await site.client.sh('echo "{ nonsense" > /run/bad.json');
    await assertFails(load('/run/bad.json'), /^(file-error|invalid-config)$/, '/run/bad.json');
  });
});

async function deleteInterface(host, address) {
  const { ifname } = await interfaceWith(host, address);
  await host.ip([`link del ${ifname}`]);
}
