/** The daemon as its service unit runs it, and the commands that speak to it. */
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, it } from 'node:test';

import { endAll, start } from './support/program.mjs';
import { clientConfig, requires, serverConfig, TUNNEL, useSite, WEB } from './support/site.mjs';
import { eventually, reaches } from './support/traffic.mjs';

const BIN = fileURLToPath(new URL('../../bin/smartvpn.js', import.meta.url));
const NOTIFY_SOCKET = '/run/notify.sock';

describe('the service', { skip: requires('socat') }, () => {
  // Before the site's own hook, which looks for what was left behind.
  afterEach(() => endAll('SIGKILL'));
  const site = useSite();

  for (const [title, user] of [
    ['root, confined,', undefined],
    ['a user of its own', { name: 'daemon', uid: 1, gid: 1 }],
  ]) {
    it(`serves as ${title} with what its unit gives it`, async () => {
      const stateDir = user && '/var/lib/smartvpn';
      const config = serverConfig({ listenAddr: '0.0.0.0:443', stateDir });
      const server = await service(site.server, 'server', config, user);
      await eventually(() => assert.match(server.notified(), /READY=1/), 10_000);
      await eventually(() => assert.match(server.notified(), /WATCHDOG=1/));

      const { agent } = await site.connect({ serverUrl: 'wss://10.90.0.2/', name: 'laptop' });
      assert.equal(await reaches(site.client, TUNNEL.server), true);
      assert.equal(await reaches(site.client, WEB.address), true, 'it forwards and masquerades');
      const journal = await site.server.exec([...server.inside, 'ls', '/var/lib/smartvpn']);
      assert.match(journal.stdout, /\.json$/m, 'it keeps a journal');
      const { stdout: socket } = await site.server.exec(['stat', '-c', '%a %u', '/run/smartvpn/server.sock']);
      assert.equal(socket.trim(), `600 ${user?.uid ?? 0}`);

      await agent.close();
      assert.deepEqual(await server.end('SIGTERM'), [0, null], server.output());
      assert.match(server.notified(), /STOPPING=1/);
      await site.assertAsFound();
      await clean(site.server);
    });
  }

  it('connects as a client with what its unit gives it', async () => {
    await site.serve();
    const client = await service(site.client, 'client', clientConfig({ stateDir: undefined }));
    await eventually(() => assert.match(client.notified(), /READY=1/), 10_000);
    await eventually(async () => assert.equal(await reaches(site.client, WEB.address), true));
    const status = await smartvpn(site.client, 'status');
    assert.match(status.stdout, /^smartvpn client: connected for 0:00:\d\d\n/);
    assert.match(status.stdout, /address +10\.8\.0\.2\n/);
    assert.match(status.stdout, /round trip .* ms/);
    const wrong = await smartvpn(site.client, 'clients', '--socket', '/run/smartvpn/client.sock');
    assert.equal(wrong.code, 3);
    assert.match(wrong.stderr, /^smartvpn: wrong-mode: /);
    assert.deepEqual(await client.end('SIGTERM'), [0, null], client.output());
    await site.assertAsFound(site.client);
    await clean(site.client);
  });

  it('is asked and told by the command', async () => {
    const absent = await smartvpn(site.server, 'status');
    assert.equal(absent.code, 3);
    assert.match(absent.stderr, /control-unavailable: No daemon is there/);
    const gone = await smartvpn(site.server, 'kick', 'x');
    assert.equal(gone.code, 3, gone.stderr);

    const server = await service(site.server, 'server', serverConfig({ stateDir: undefined }));
    await eventually(() => assert.match(server.notified(), /READY=1/), 10_000);
    assert.equal((await smartvpn(site.server, 'clients')).stdout, 'Nobody is connected.\n');
    const { vpn } = await site.connect({ name: 'laptop' });
    await reaches(site.client, TUNNEL.server);

    const [line, ...more] = (await smartvpn(site.server, 'status', '--json')).stdout.trim().split('\n');
    assert.deepEqual(more, []);
    const { mode, socket, status, statistics, clients } = JSON.parse(line);
    assert.deepEqual([mode, socket, status.state], ['server', '/run/smartvpn/server.sock', 'connected']);
    assert.equal(statistics.activeClients, 1);
    assert.equal(clients.length, 1);
    assert.match(
      (await smartvpn(site.server, 'status')).stdout,
      /^smartvpn server: serving for [^]*clients +1\n/,
    );

    const list = JSON.parse((await smartvpn(site.server, 'clients', '--json')).stdout);
    const [{ clientId, name, assignedIp }] = list;
    assert.deepEqual([name, assignedIp], ['laptop', '10.8.0.2']);
    const table = (await smartvpn(site.server, 'clients')).stdout.split('\n');
    assert.match(table[0], /^ID +ADDRESS +FROM +NAME/);
    assert.ok(table[1].startsWith(clientId) && table[1].includes('laptop'), table[1]);

    const limitOf = async () => {
      const [{ rateLimitBytesPerSec, burstBytes }] = JSON.parse(
        (await smartvpn(site.server, 'clients', '--json')).stdout,
      );
      return [rateLimitBytesPerSec, burstBytes];
    };
    const limited = await smartvpn(site.server, 'limit', clientId, '1.5M');
    assert.deepEqual(
      [limited.code, limited.stdout],
      [0, `${clientId} is limited to 1.5 MB/s each way, 1.5 MB at once.\n`],
    );
    assert.deepEqual(await limitOf(), [1_500_000, 1_500_000]);
    assert.match((await smartvpn(site.server, 'clients')).stdout, / LIMIT\n.* 1\.5 MB\/s\n/);
    const asJson = await smartvpn(site.server, 'limit', clientId, '10k', '100k', '--json');
    assert.deepEqual(JSON.parse(asJson.stdout), {
      clientId,
      rateLimitBytesPerSec: 10_000,
      burstBytes: 100_000,
    });
    assert.deepEqual(await limitOf(), [10_000, 100_000]);
    const tooLittle = await smartvpn(site.server, 'limit', clientId, '999', '--json');
    assert.equal(tooLittle.code, 4, tooLittle.stdout);
    assert.equal(JSON.parse(tooLittle.stdout).error.code, 'invalid-argument');
    assert.match(tooLittle.stderr, /^smartvpn: invalid-argument: rateBytesPerSec: /);
    const lifted = await smartvpn(site.server, 'limit', clientId, 'off');
    assert.deepEqual([lifted.code, lifted.stdout], [0, `${clientId} has no limit.\n`]);
    assert.deepEqual(await limitOf(), [undefined, undefined]);
    assert.equal((await smartvpn(site.server, 'limit', 'nobody', '1M')).code, 4);
    const unknown = await smartvpn(site.server, 'kick', 'nobody', '--json');
    assert.equal(unknown.code, 4);
    assert.equal(JSON.parse(unknown.stdout).error.code, 'unknown-client');

    const kicked = await smartvpn(site.server, 'kick', clientId);
    assert.deepEqual([kicked.code, kicked.stdout], [0, `${clientId} is disconnected.\n`]);
    await eventually(async () => assert.equal((await vpn.getStatus()).lastErrorCode, 'kicked'));
    assert.deepEqual(await server.end('SIGTERM'), [0, null], server.output());
    await clean(site.server);
  });

  it('is installed with its unit, and the commands that start it', async () => {
    const host = site.server;
    await host.exec(['mkdir', '-p', '/etc/smartvpn']);
    await write(host, '/etc/smartvpn/server.json', serverConfig({ stateDir: undefined }));
    const install = (...args) =>
      smartvpn(host, 'install', 'server', '--config', '/etc/smartvpn/server.json', ...args);

    const printed = await install('--print');
    assert.equal(printed.code, 0, printed.stderr);
    assert.match(
      printed.stdout,
      /^ExecStart=\/\S+\/smartvpn_daemon --management-socket \/run\/smartvpn\/server\.sock --mode server --config \/etc\/smartvpn\/server\.json$/m,
    );

    await host.exec(['mkdir', '-p', '/etc/systemd/system']);
    const written = await install();
    assert.equal(written.code, 0, written.stderr);
    assert.match(written.stdout, /systemctl daemon-reload\n.*systemctl enable --now smartvpn-server\n/);
    const path = '/etc/systemd/system/smartvpn-server.service';
    assert.equal((await host.exec(['cat', path])).stdout, printed.stdout);
    assert.equal((await host.exec(['stat', '-c', '%a', path])).stdout.trim(), '644');
    assert.equal((await install()).code, 0, 'ours may be replaced');
    await host.exec(['sh', '-c', `echo '[Unit]' > ${path}`]);
    const theirs = await install('--json');
    assert.equal(theirs.code, 1);
    assert.match(JSON.parse(theirs.stdout).error.message, /not of smartvpn's making/);
    assert.equal((await install('--force')).code, 0);

    const mixed = await smartvpn(host, 'install', 'client', '--config', '/etc/smartvpn/server.json');
    assert.match(mixed.stderr, /configures a server, not a client/);
    const user = await install('--print', '--user', 'daemon');
    assert.match(user.stderr, /daemon may not read \/etc\/smartvpn\/server\.json: `sudo chown daemon/);
    assert.match(user.stderr, /Only root keeps a journal/);
    assert.equal((await install('--print', '--user', 'nobody-of-that-name')).code, 1);
    await host.exec(['rm', '-r', '/etc/smartvpn', path]);
  });
});

/**
 * Runs the daemon by the command line of its unit, with the capabilities, the folders and the
 * writable paths that systemd would give it, and a stand-in for systemd's socket.
 */
async function service(host, mode, config, user) {
  const file = `/etc/smartvpn-${mode}.json`;
  await write(host, file, config, user);
  const { stdout: unit } = await smartvpn(
    host,
    'install',
    mode,
    '--config',
    file,
    '--print',
    ...(user ? ['--user', user.name] : []),
  );
  const values = (name) =>
    Array.from(unit.matchAll(new RegExp(`^${name}=(.*)$`, 'gm')), ([, value]) => value);
  const [command] = values('ExecStart');
  const capabilities = values('CapabilityBoundingSet')[0]
    .toLowerCase()
    .replaceAll('cap_', '+')
    .replaceAll(' ', ',');
  const [state] = values('StateDirectory');
  const [runtime] = values('RuntimeDirectory');
  const owner = user ? `${user.uid}:${user.gid}` : '0:0';
  const writable = values('ReadWritePaths').flatMap((list) => list.split(' '));

  await host.sh(
    `rm -rf ${NOTIFY_SOCKET}; install -d -m 0755 /run/${runtime}; chown ${owner} /run/${runtime}`,
  );
  const notify = start(host, ['socat', '-u', `UNIX-RECV:${NOTIFY_SOCKET},mode=0666`, 'STDOUT']);
  await eventually(() => host.exec(['test', '-S', NOTIFY_SOCKET]));
  const script = `
    mount -t tmpfs -o mode=0755 state /var/lib
    install -d -m 0700 /var/lib/${state}; chown ${owner} /var/lib/${state}
    for path in /var/lib/${state} /run/${runtime} ${writable.join(' ')}; do
      path=\${path#-}
      [ ! -e $path ] || mount --bind $path $path
    done
    cut -d ' ' -f 5 /proc/self/mountinfo | while read -r path; do
      case " /var/lib/${state} /run/${runtime} ${writable.join(' ').replaceAll(/(^| )-/g, '$1')} /dev/net/tun " in
        *" $path "*) ;;
        *) mount -o remount,bind,ro "$path" 2>/dev/null || true ;;
      esac
    done
    for file in /var/lib/x /run/x /etc/x /proc/sys/kernel/printk_ratelimit; do
      if (: >> $file) 2>/dev/null; then echo "$file can be written"; exit 1; fi
    done
    umask ${values('UMask')[0]}
    exec setpriv ${user ? `--reuid ${user.uid} --regid ${user.gid} --clear-groups` : ''} \\
      --bounding-set=-all,${capabilities} --inh-caps=-all,${capabilities} --ambient-caps=-all,${capabilities} --no-new-privs \\
      ${command}
  `;
  const env = { PATH: '/usr/bin:/bin', NOTIFY_SOCKET, WATCHDOG_USEC: '1000000' };
  const daemon = start(host, ['unshare', '--mount', 'sh', '-ec', script], {
    env: { ...process.env, ...env },
  });
  return {
    ...daemon,
    notified: notify.output,
    /** What to put before a command to run it where the daemon is. */
    inside: ['nsenter', '--target', String(daemon.child.pid), '--mount', '--'],
  };
}

/** Lets go of what systemd would have removed. */
async function clean(host) {
  await endAll();
  await host.sh(`rm -rf ${NOTIFY_SOCKET} /run/smartvpn /etc/smartvpn-*.json`);
}

function smartvpn(host, ...args) {
  return host.exec([process.execPath, BIN, ...args], { check: false });
}

async function write(host, file, config, user) {
  await host.exec(['sh', '-c', `umask 077; cat > ${file}; chown ${user ? user.uid : 0} ${file}`], {
    input: JSON.stringify(config),
  });
}
