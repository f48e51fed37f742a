/** `npx smartvpn` as people use it: on hosts with real packets, on terminals and off them. */
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, it } from 'node:test';

import { endAll, start } from './support/program.mjs';
import { authority, clientConfig, PORT, requires, serverConfig, TUNNEL, useSite } from './support/site.mjs';
import { SERVER, WEB } from '../../scripts/lab-site.mjs';
import { eventually, reaches } from './support/traffic.mjs';

const BIN = fileURLToPath(new URL('../../bin/smartvpn.js', import.meta.url));

describe('npx smartvpn', { skip: requires('script') }, () => {
  // Before the site's own hook, which looks for what was left behind.
  afterEach(() => endAll());
  const site = useSite();

  it('goes from nothing to a tunnel by the commands that it prints', async () => {
    const init = await site.server.exec(smartvpn('init', 'server', '--out', '/run/server.json'));
    const [serve] = commands(init.stdout, 'Start the server:');
    const [next] = commands(init.stdout, 'On the client:');
    assert.match(next, new RegExp(`init client ws://${SERVER.address}:8443/ \\S{44}$`));
    const { stdout: mode } = await site.server.exec(['stat', '-c', '%a', '/run/server.json']);
    assert.equal(mode.trim(), '600');

    const server = await start(site.server, smartvpn(...words(serve)));
    await eventually(() => assert.match(server.output(), /serving on 0\.0\.0\.0:8443 as 10\.8\.0\.1/));

    const joined = await site.client.sh(
      `cd /run; exec ${shell(smartvpn(...words(next), '--route', WEB.network))}`,
    );
    const [connect] = commands(joined.stdout, 'Connect:');
    const client = await start(site.client, ['env', '-C', '/run', ...smartvpn(...words(connect))]);
    await eventually(() => assert.match(client.output(), /connected as 10\.8\.0\.2 to 10\.90\.0\.2:8443/));
    assert.equal(await reaches(site.client, TUNNEL.server), true);
    assert.equal(await reaches(site.client, WEB.address), true, 'NAT is on by default');
    await eventually(() =>
      assert.match(server.output(), /client \S+ connected: 10\.8\.0\.2 .*from 10\.90\.1\.2/),
    );

    assert.deepEqual(await client.end('SIGINT'), [0, null], client.output());
    assert.match(client.output(), /Ended after 0:0\d:\d\d: sent \S+ k?B, received \S+ k?B\.\n$/);
    await eventually(() => assert.match(server.output(), /disconnected: client-disconnect/));
    assert.deepEqual(await server.end('SIGTERM'), [0, null], server.output());
    await site.assertAsFound();
    await site.server.exec(['rm', '/run/server.json']);
  });

  it('never replaces a file unless told to', async () => {
    const again = () =>
      site.server.exec(smartvpn('init', 'server', '--out', '/run/own.json'), { check: false });
    assert.equal((await again()).code, 0);
    const refused = await again();
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /file-error: \/run\/own\.json is there already/);
    assert.equal(
      (await site.server.exec(smartvpn('init', 'server', '--out', '/run/own.json', '--force'))).code,
      0,
    );
  });

  it('avoids networks and ports that the host uses', async () => {
    await site.server.ip(['route add unreachable 10.8.0.0/14', 'route add 10.12.0.0/16 dev eth0 table 77']);
    const listener = start(site.server, ['socat', 'TCP-LISTEN:8443,reuseaddr,fork', 'PIPE']);
    try {
      await eventually(async () => {
        const args = ['init', 'server', '--out', '/run/free.json', '--force', '--json'];
        const { subnet, listenAddr } = JSON.parse((await site.server.exec(smartvpn(...args))).stdout);
        assert.equal(subnet, '10.13.0.0/24');
        assert.equal(listenAddr, '0.0.0.0:8444');
      });
    } finally {
      await listener.end('SIGKILL');
      await site.server.ip(['route del unreachable 10.8.0.0/14', 'route del 10.12.0.0/16 dev eth0 table 77']);
    }
  });

  it('prints JSON lines of all that happens', async () => {
    const server = await up(site.server, serverConfig(), '--json', '--interval', '0.2');
    await eventually(() => assert.match(server.output(), /"state":"connected"/));
    const client = await up(site.client, clientConfig({ name: 'laptop' }), '--json', '--interval', '0.2');
    const events = (process, name) => process.json().filter(({ event }) => event === name);
    await eventually(() => {
      assert.equal(events(client, 'status').at(-1)?.data.state, 'connected');
      assert.ok(events(client, 'statistics').length > 2);
      assert.equal(events(server, 'client-connected')[0]?.data.name, 'laptop');
      assert.ok(events(client, 'statistics').at(-1).data.bytesSent >= 0);
    });
    await client.end('SIGINT');
    await server.end('SIGINT');
    for (const line of [...client.json(), ...server.json()])
      assert.deepEqual(Object.keys(line), ['time', 'event', 'data']);
    assert.ok(!(client.output() + server.output()).includes(serverConfig().privateKey));
  });

  it('says in one line why it cannot', async () => {
    const refused = await up(site.client, clientConfig());
    const [code] = await refused.ended;
    assert.equal(code, 1);
    assert.match(refused.output(), /smartvpn: connection-refused: .*\n$/);

    const server = await site.serve();
    const occupied = await up(site.server, serverConfig({ subnet: '10.77.0.0/24' }), '--json');
    assert.equal((await occupied.ended)[0], 1);
    assert.equal(occupied.json().at(-1).error.code, 'address-in-use');
    await server.agent.close();
  });

  it('ends when the server has thrown it out', async () => {
    const { vpn } = await site.serve();
    const client = await up(site.client, clientConfig());
    const id = await eventually(async () => {
      const [found] = await vpn.listClients();
      assert.ok(found);
      return found.clientId;
    });
    await vpn.disconnectClient(id);
    const [code] = await client.ended;
    assert.equal(code, 1);
    assert.match(client.output(), /smartvpn: kicked: /);
    await site.assertAsFound(site.client);
  });

  it('is interrupted while it connects', async () => {
    // Nobody has that address, which shows only after a while.
    const client = await up(site.client, clientConfig({ serverUrl: 'ws://10.90.1.77:8443/' }));
    await eventually(() => assert.match(client.output(), /connecting/));
    assert.deepEqual(await client.end('SIGINT'), [0, null], client.output());
    await site.assertAsFound();
  });

  it('ends in good order when nobody reads its lines any more', async () => {
    await site.serve();
    const file = await write(site.client, clientConfig());
    const { stdout } = await site.client.sh(
      `${shell(smartvpn('up', file, '--json', '--interval', '0.1'))} | head -n 1; sleep 0.1`,
    );
    assert.equal(stdout.trim().split('\n').length, 1);
    await eventually(() => site.assertAsFound(site.client));
    for (const args of ['--help', 'doctor', 'keygen --json']) {
      const { stderr } = await site.client.sh(`${shell(smartvpn(...args.split(' ')))} | true; sleep 0.3`);
      assert.equal(stderr, '');
    }
  });

  it('draws a live view on a terminal, and gives it back', async () => {
    await site.serve();
    const file = await write(site.client, clientConfig());
    const client = await onTerminal(site.client, smartvpn('up', file), { columns: 60, rows: 16 });
    await eventually(() => assert.match(frame(client.output()), /connected[^]*address +10\.8\.0\.2/));
    const traffic = site.client.exec(['ping', '-c', '20', '-i', '0.1', '-s', '1000', TUNNEL.server]);
    await eventually(() => assert.match(frame(client.output()), /sent +[\d.]+ [kM]bit\/s[^]*[▂▃▄▅▆▇█]/));
    await traffic;
    const lines = frame(client.output()).split(/\r*\n/);
    assert.ok(lines.length <= 16);
    for (const line of lines) assert.ok([...line].length <= 60, line);

    client.child.stdin.write('\u0003');
    assert.equal((await client.ended)[0], 0, client.output());
    const output = client.output();
    assert.ok(output.lastIndexOf('\u001b[?25h') > output.lastIndexOf('\u001b[?25l'), 'the cursor is back');
    assert.ok(
      output.lastIndexOf('\u001b[?1049l') > output.lastIndexOf('\u001b[?1049h'),
      'the screen is back',
    );
    assert.match(output, /Ended after/);
    await site.assertAsFound(site.client);
  });

  it('ends at once at the second Ctrl-C, with the host and the terminal as found', async () => {
    await site.serve();
    const file = await write(site.client, clientConfig());
    const client = await onTerminal(site.client, smartvpn('up', file));
    await eventually(() => assert.match(frame(client.output()), /connected/));
    client.child.stdin.write('\u0003\u0003');
    const [code] = await client.ended;
    assert.ok(code === 130 || code === 0, `${code}`);
    assert.ok(client.output().includes('\u001b[?25h'));
    await eventually(() => site.assertAsFound(site.client));
  });

  it('shows the doctor a good server and a good client', async () => {
    const server = await write(site.server, serverConfig());
    const good = await doctor(site.server, server);
    assert.equal(good.code, 0, good.text);
    for (const name of [
      'addon',
      'daemon',
      'configuration',
      'privileges',
      'TUN device',
      'nft',
      'forwarding',
      'port',
      'certificate',
      'subnet',
    ]) {
      assert.equal(good.state(name), 'ok', `${name}: ${good.text}`);
    }

    await site.serve();
    const running = await doctor(site.server, server);
    assert.equal(running.state('port'), 'warn', running.text);
    assert.match(running.message('port'), /smartvpn server that runs already/);

    const client = await doctor(site.client, await write(site.client, clientConfig()));
    assert.equal(client.code, 0, client.text);
    for (const name of ['configuration', 'resolvers', 'connection', 'TLS', 'certificate', 'upgrade']) {
      assert.equal(client.state(name), 'ok', `${name}: ${client.text}`);
    }
  });

  it('shows the doctor a host without root, TUN and nft', async () => {
    const file = '/run/poor.json';
    await site.client.exec(['sh', '-c', `cat > ${file}; chmod 600 ${file}; chown 65534 ${file}`], {
      input: JSON.stringify(serverConfig({ listenAddr: '0.0.0.0:443' })),
    });
    const examine = async (user) => {
      const setting = [
        'mount -t tmpfs none /dev/net',
        'for path in /usr/sbin/nft /sbin/nft; do [ ! -e $path ] || mount --bind /dev/null $path; done',
        'mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys',
        `exec setpriv ${user} --bounding-set=-all ${shell(smartvpn('doctor', file, '--json'))}`,
      ];
      const argv = ['unshare', '--mount', 'sh', '-ec', setting.join('\n')];
      const { code, stdout, stderr } = await site.client.exec(argv, { check: false });
      const { ok, checks } = JSON.parse(stdout || assert.fail(stderr));
      assert.equal(code, 1);
      assert.equal(ok, false);
      return Object.fromEntries(checks.map((one) => [one.name, one]));
    };
    const user = await examine('--reuid 65534 --regid 65534 --clear-groups');
    assert.deepEqual(
      ['configuration', 'privileges', 'TUN device', 'nft', 'forwarding'].map((name) => user[name].state),
      ['ok', 'fail', 'fail', 'fail', 'warn'],
    );
    assert.match(user.privileges.fix, /^sudo /);
    assert.match(user['TUN device'].fix, /sudo modprobe tun/);
    assert.match(user.nft.fix, /sudo .*install.* nftables/);
    assert.match(user.forwarding.fix, /sudo sysctl -w/);

    await site.client.exec(['chown', '0', file]);
    const container = await examine('--reuid 0');
    assert.match(container.privileges.message, /root, but without CAP_NET_ADMIN/);
    assert.match(container.privileges.fix, /--cap-add NET_ADMIN/);
    assert.match(container.forwarding.message, /read-only/);
    assert.equal(container.forwarding.state, 'fail');
    await site.client.exec(['rm', file]);
  });

  it('shows the doctor what is wrong on the way to a server', async () => {
    const diagnose = async (config) => doctor(site.client, await write(site.client, clientConfig(config)));
    const nobody = await diagnose();
    assert.equal(nobody.code, 1);
    assert.match(nobody.message('connection'), /refuses connections/);
    const unknown = await diagnose({ serverUrl: 'wss://no-such-host.invalid/' });
    assert.equal(unknown.state('server name'), 'fail', unknown.text);

    const { agent } = await site.serve();
    const distrusted = await diagnose({ tlsCa: undefined });
    assert.match(distrusted.message('TLS'), /is not trusted/);
    await agent.close();

    const expired = authority.issue([SERVER.address], { notAfter: new Date(Date.now() - 86_400_000) });
    const other = await site.serve({ tlsCert: expired.certificate, tlsKey: expired.key, path: '/vpn' });
    const late = await diagnose();
    assert.match(late.message('certificate'), /expired on/);
    assert.match(late.message('upgrade'), /HTTP 404 instead of a WebSocket/);
    assert.equal(
      (await diagnose({ serverUrl: `wss://${SERVER.address}:${PORT}/vpn` })).state('upgrade'),
      'ok',
    );
    await other.agent.close();

    const plain = await site.serve({ tlsCert: undefined, tlsKey: undefined });
    assert.match((await diagnose()).message('connection'), /speaks no TLS/);
    await plain.agent.close();
  });

  it('shows the doctor what is wrong with a server’s certificate and subnet', async () => {
    const diagnose = async (config) => doctor(site.server, await write(site.server, serverConfig(config)));
    const [mine, others] = [authority.issue(['vpn.test']), authority.issue(['vpn.test'])];
    const mixed = await diagnose({ tlsCert: '/run/cert.pem', tlsKey: '/run/key.pem' });
    assert.match(mixed.message('certificate'), /cannot be read/);
    await site.server.exec(['sh', '-c', 'cat > /run/cert.pem'], { input: mine.certificate });
    await site.server.exec(['sh', '-c', 'cat > /run/key.pem'], { input: others.key });
    const wrong = await diagnose({ tlsCert: '/run/cert.pem', tlsKey: '/run/key.pem' });
    assert.match(wrong.message('certificate'), /does not belong/);
    await site.server.exec(['sh', '-c', 'cat > /run/key.pem; chmod 644 /run/key.pem'], { input: mine.key });
    const open = await diagnose({ tlsCert: '/run/cert.pem', tlsKey: '/run/key.pem' });
    assert.match(open.text, /chmod 600 \/run\/key\.pem/);
    const taken = await diagnose({ subnet: '10.90.0.0/24', listenAddr: '10.1.1.1:8443' });
    assert.match(taken.message('subnet'), /overlaps 10\.90\.0\.0\/24/);
    assert.match(taken.message('port'), /no address of this host/);
    await site.server.exec(['rm', '/run/cert.pem', '/run/key.pem']);
  });
});

function smartvpn(...args) {
  return [process.execPath, BIN, ...args];
}

/** The commands under a heading, without what runs them. */
function commands(output, heading) {
  const lines = output.slice(output.indexOf(heading)).split('\n').slice(1);
  return lines
    .slice(
      0,
      lines.findIndex((line) => !line.startsWith('  ')),
    )
    .map((line) => {
      const [, command] = /^ {2}(?:sudo )?npx smartvpn (.+)$/.exec(line) ?? assert.fail(line);
      return command;
    });
}

function words(command) {
  assert.doesNotMatch(command, /['"\\]/);
  return command.split(' ');
}

function shell(argv) {
  return argv.map((word) => `'${word}'`).join(' ');
}

async function write(host, config) {
  const file = `/run/${host.name}.json`;
  await host.exec(['sh', '-c', `umask 077; cat > ${file}`], { input: JSON.stringify(config) });
  return file;
}

/** `smartvpn up` with a configuration. */
async function up(host, config, ...args) {
  return start(host, smartvpn('up', await write(host, config), ...args));
}

/** Runs a program on a terminal of its own. */
function onTerminal(host, argv, { columns = 80, rows = 24 } = {}) {
  const command = `stty cols ${columns} rows ${rows}; exec ${shell(argv)}`;
  return start(host, ['script', '--quiet', '--return', '--command', command, '/dev/null'], {
    env: { ...process.env, TERM: 'xterm', NO_COLOR: '1' },
  });
}

/** What the last whole view on the terminal shows. */
function frame(output) {
  const frames = output.split('\u001b[H').filter((text) => text.includes('\u001b[J'));
  return (frames.at(-1) ?? '').split('\u001b[J')[0].replaceAll('\u001b[K', '');
}

async function doctor(host, file) {
  const { code, stdout, stderr } = await host.exec(smartvpn('doctor', file, '--json'), { check: false });
  const { checks } = JSON.parse(stdout || assert.fail(stderr));
  const find = (name) => checks.find((check) => check.name === name);
  return {
    code,
    text: stdout,
    state: (name) => find(name)?.state,
    message: (name) => find(name)?.message ?? assert.fail(`no ${name} in ${stdout}`),
  };
}
