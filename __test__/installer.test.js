'use strict';

const assert = require('node:assert/strict');
const { spawnSync } = require('node:child_process');
const {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} = require('node:fs');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { describe, test } = require('node:test');

const { VpnInstaller } = require('../index.js');

const OPTIONS = {
  binaryPath: '/usr/bin/env',
  socketPath: '/run/smartvpn/server.sock',
  mode: 'server',
  configPath: '/etc/smartvpn/server.json',
};

/** What systemd itself reaches for a service that must hold CAP_NET_ADMIN is about 2. */
const EXPOSURE_LIMIT = 25;

const GENERATORS = ['generateSystemdUnit', 'generateLaunchdPlist', 'generateServiceUnit'];

function has(tool) {
  return spawnSync('sh', ['-c', 'command -v "$0"', tool]).status === 0;
}

const needs = (tool, debianPackage) => ({
  skip: !has(tool) && `There is no ${tool}: install the package ${debianPackage}.`,
});

function makeFolder(t) {
  const folder = mkdtempSync(join(tmpdir(), 'smartvpn-unit-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

function writeUnit(t, options) {
  const file = join(makeFolder(t), 'smartvpn.service');
  writeFileSync(file, VpnInstaller.generateSystemdUnit({ ...OPTIONS, ...options }));
  return file;
}

/** The value of a setting, the last one if it is there more often. */
function setting(unit, name) {
  return unit
    .split('\n')
    .findLast((line) => line.startsWith(`${name}=`))
    ?.slice(name.length + 1);
}

function invalid(options, words) {
  for (const generate of GENERATORS) {
    assert.throws(
      () => VpnInstaller[generate]({ ...OPTIONS, ...options }),
      (error) => {
        assert.equal(error.code, 'invalid-argument', `${error}`);
        assert.match(error.message, words);
        return true;
      },
    );
  }
}

/** What libplist makes of a property list: it goes through the binary form, so nothing of ours is left. */
function readPlist(file) {
  const convert = (input, format) => {
    const args = ['-i', input, '-o', `${file}.${format}`, '-f', format];
    const { status, stdout, stderr } = spawnSync('plistutil', args, { encoding: 'utf8' });
    assert.equal(status, 0, stdout + stderr);
    return `${file}.${format}`;
  };
  const tags = readFileSync(convert(convert(file, 'bin'), 'xml'), 'utf8').matchAll(
    /<(key|string|integer)>([^<]*)<|<(\/?(?:dict|array)|true|false)\/?>/g,
  );
  const read = () => {
    const { value } = tags.next();
    const [, kind = value[3], text] = value;
    if (kind === 'true' || kind === 'false') return kind === 'true';
    if (kind === 'integer') return Number(text);
    if (kind === 'dict' || kind === 'array') {
      const members = [...takeWhile(read, (member) => member !== `/${kind}`)];
      if (kind === 'array') return members;
      return Object.fromEntries(members.flatMap((name, i) => (i % 2 ? [] : [[name, members[i + 1]]])));
    }
    return text?.replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&amp;', '&') ?? kind;
  };
  return read();
}

function* takeWhile(take, isWanted) {
  for (let value = take(); isWanted(value); value = take()) yield value;
}

/** What `process.platform` is while `use` runs. */
function onPlatform(platform, use) {
  const original = Object.getOwnPropertyDescriptor(process, 'platform');
  Object.defineProperty(process, 'platform', { ...original, value: platform });
  try {
    return use();
  } finally {
    Object.defineProperty(process, 'platform', original);
  }
}

test('the platform is told by our names', () => {
  const names = ['linux', 'darwin', 'win32', 'freebsd'].map((platform) =>
    onPlatform(platform, () => VpnInstaller.detectPlatform()),
  );
  assert.deepEqual(names, ['linux', 'macos', 'windows', 'unknown']);
});

test('the unit is that of the platform', () => {
  const unit = (platform) => onPlatform(platform, () => VpnInstaller.generateServiceUnit(OPTIONS));
  assert.equal(unit('linux'), VpnInstaller.generateSystemdUnit(OPTIONS));
  assert.equal(unit('darwin'), VpnInstaller.generateLaunchdPlist(OPTIONS));
  for (const platform of ['win32', 'freebsd']) {
    assert.throws(() => unit(platform), { code: 'unsupported-platform' });
  }
});

test('what cannot be said in a unit is refused, with the option’s name', () => {
  for (const name of ['binaryPath', 'socketPath', 'configPath']) {
    for (const path of [
      '',
      7,
      null,
      'relative/x',
      './x',
      '/a\nb',
      '/a\0b',
      '/a\rb',
      '/\u2028',
      '/\ud800',
      '/a/',
    ]) {
      invalid({ [name]: path }, new RegExp(`options\\.${name} must be`));
    }
  }
  for (const path of ['/a"b', "/a'b", '/a\\b', '/a$b', '/a:b']) {
    invalid({ binaryPath: path }, /binaryPath.*without quotes/);
    invalid({ socketPath: path }, /socketPath.*without quotes/);
  }
  invalid({ socketPath: `/run/smartvpn/${'ü'.repeat(60)}` }, /107 bytes/);
  for (const mode of [undefined, 'both', 'Server', 7]) invalid({ mode }, /mode must be "client" or "server"/);
  for (const user of [
    '',
    'a b',
    'a\nExecStart=/bin/sh',
    '0',
    '1000',
    '-x',
    'ü',
    'a'.repeat(32),
    7,
    null,
    '%u',
  ]) {
    invalid({ user }, /options\.user must be/);
  }
  invalid({ port: 7 }, /has no "port"/);
  for (const options of [undefined, null, 'x', []]) {
    assert.throws(() => VpnInstaller.generateSystemdUnit(options), { code: 'invalid-argument' });
  }
});

describe('the systemd unit', () => {
  test('starts the daemon with its socket, mode and configuration', () => {
    const unit = VpnInstaller.generateSystemdUnit(OPTIONS);
    assert.equal(
      setting(unit, 'ExecStart'),
      '/usr/bin/env --management-socket /run/smartvpn/server.sock --mode server --config /etc/smartvpn/server.json',
    );
    const waiting = VpnInstaller.generateSystemdUnit({ ...OPTIONS, configPath: undefined, mode: 'client' });
    assert.match(setting(waiting, 'ExecStart'), /--mode client$/);
  });

  test('makes the socket’s folder below /run, and asks for another to be writable', () => {
    const unit = (socketPath) => VpnInstaller.generateSystemdUnit({ ...OPTIONS, socketPath });
    for (const [path, folder] of [
      ['/run/smartvpn/server.sock', 'smartvpn'],
      ['/var/run/smartvpn/server.sock', 'smartvpn'],
      ['/run/./vpn//one/x.sock', 'vpn/one'],
      ['/run/my vpn/100%.sock', '"my vpn"'],
      ['/run/100%/x.sock', '100%%'],
    ]) {
      assert.equal(setting(unit(path), 'RuntimeDirectory'), folder);
    }
    for (const [path, folder] of [
      ['/srv/vpn/server.sock', '/srv/vpn'],
      ['/srv/my vpn/x', '"/srv/my vpn"'],
      ['/run/user/1000/x.sock', '/run/user/1000'],
    ]) {
      assert.equal(setting(unit(path), 'RuntimeDirectory'), undefined);
      assert.ok(unit(path).includes(`\nReadWritePaths=${folder}\n`));
    }
    for (const path of [
      '/x.sock',
      '/run/x.sock',
      '/var/run/x.sock',
      '/tmp/x.sock',
      '/tmp/a/x.sock',
      '/var/tmp/a/x',
      '/srv/../run/x',
    ]) {
      assert.throws(() => unit(path), { code: 'invalid-argument', message: /cannot lie in/ }, path);
    }
  });

  test('gives homes to see only where a file of the service lies there', () => {
    const homes = (options) =>
      setting(VpnInstaller.generateSystemdUnit({ ...OPTIONS, ...options }), 'ProtectHome');
    assert.equal(homes({}), 'yes');
    for (const home of ['home/ann', 'root', 'run/user/1000']) {
      assert.equal(homes({ configPath: `/${home}/server.json` }), 'read-only', home);
    }
    assert.equal(homes({ binaryPath: '/home/ann/app/node_modules/x/bin/smartvpn_daemon' }), 'read-only');
    assert.equal(homes({ configPath: '/homestead/server.json' }), 'yes');
  });

  test('names the user only if there is one', () => {
    assert.equal(setting(VpnInstaller.generateSystemdUnit(OPTIONS), 'User'), undefined);
    assert.equal(setting(VpnInstaller.generateSystemdUnit({ ...OPTIONS, user: 'vpn-1' }), 'User'), 'vpn-1');
  });

  test('lets only a client touch the resolvers', () => {
    const unit = (mode) => VpnInstaller.generateSystemdUnit({ ...OPTIONS, mode });
    assert.ok(unit('client').includes('/etc/resolv.conf'));
    assert.ok(!unit('server').includes('/etc/resolv.conf'));
  });

  test('has no power but what its mode needs, and no device but the TUN', () => {
    const unit = VpnInstaller.generateSystemdUnit(OPTIONS);
    for (const name of ['CapabilityBoundingSet', 'AmbientCapabilities']) {
      assert.equal(setting(unit, name), 'CAP_NET_ADMIN CAP_NET_BIND_SERVICE');
      const client = VpnInstaller.generateSystemdUnit({ ...OPTIONS, mode: 'client' });
      assert.equal(setting(client, name), 'CAP_NET_ADMIN');
    }
    assert.equal(setting(unit, 'DevicePolicy'), 'closed');
    assert.equal(setting(unit, 'DeviceAllow'), '/dev/net/tun rw');
    assert.equal(setting(unit, 'Type'), 'notify');
    assert.ok(Number(setting(unit, 'TimeoutStopSec')) > 5);
  });

  for (const [title, options] of [
    ['a server', {}],
    ['a client', { mode: 'client', socketPath: '/run/smartvpn/client.sock', user: 'daemon' }],
    ['a daemon that waits', { configPath: undefined }],
    [
      'odd paths',
      { configPath: `/etc/a "b" 'c' \\d %n $HOME \${x} ü;#.json`, socketPath: '/srv/my vpn/ü %h.sock' },
    ],
  ]) {
    test(`is accepted by systemd-analyze verify: ${title}`, needs('systemd-analyze', 'systemd'), (t) => {
      const { status, stdout, stderr } = spawnSync('systemd-analyze', ['verify', writeUnit(t, options)], {
        encoding: 'utf8',
      });
      assert.equal(stderr + stdout, '');
      assert.equal(status, 0);
    });
  }

  test('verify sees what is wrong', needs('systemd-analyze', 'systemd'), (t) => {
    const file = writeUnit(t, { binaryPath: '/nonexistent/smartvpn_daemon' });
    assert.notEqual(spawnSync('systemd-analyze', ['verify', file]).status, 0);
  });

  for (const mode of ['server', 'client']) {
    test(`is among the least exposed services: ${mode}`, needs('systemd-analyze', 'systemd'), (t) => {
      const args = [
        'security',
        '--offline=true',
        `--threshold=${EXPOSURE_LIMIT}`,
        '--no-pager',
        writeUnit(t, { mode }),
      ];
      const { status, stdout, stderr } = spawnSync('systemd-analyze', args, { encoding: 'utf8' });
      assert.equal(status, 0, stdout + stderr);
      assert.match(stdout, /Overall exposure level.*OK/);
    });
  }

  test(
    'starts a binary whose path has spaces and percent signs',
    needs('systemd-analyze', 'systemd'),
    (t) => {
      const folder = join(makeFolder(t), 'my vpn 100% ü;#');
      mkdirSync(folder);
      const binaryPath = join(folder, 'smartvpn_daemon');
      copyFileSync('/bin/true', binaryPath);
      chmodSync(binaryPath, 0o755);
      const { status, stderr } = spawnSync('systemd-analyze', ['verify', writeUnit(t, { binaryPath })], {
        encoding: 'utf8',
      });
      assert.equal(stderr, '');
      assert.equal(status, 0);
    },
  );
});

describe('the launchd property list', () => {
  const options = {
    ...OPTIONS,
    binaryPath: '/opt/a & <b>/smartvpn_daemon',
    configPath: `/etc/a "b" 'c' \\d %n $HOME ]]> &amp; ü.json`,
    user: '_vpn',
  };

  test('says what is to run', needs('plistutil', 'libplist-utils'), (t) => {
    const file = join(makeFolder(t), 'smartvpn.plist');
    writeFileSync(file, VpnInstaller.generateLaunchdPlist(options));
    assert.deepEqual(readPlist(file), {
      Label: 'smartvpn.server',
      ProgramArguments: [
        options.binaryPath,
        '--management-socket',
        options.socketPath,
        '--mode',
        'server',
        '--config',
        options.configPath,
      ],
      RunAtLoad: true,
      KeepAlive: { SuccessfulExit: false },
      ExitTimeOut: 15,
      Umask: 0o77,
      StandardErrorPath: '/var/log/smartvpn-server.log',
      UserName: '_vpn',
    });
  });

  test('leaves out what is not given', () => {
    const plist = VpnInstaller.generateLaunchdPlist({ ...OPTIONS, configPath: undefined, mode: 'client' });
    assert.ok(!plist.includes('UserName'));
    assert.ok(!plist.includes('--config'));
    assert.ok(plist.includes('<string>smartvpn.client</string>'));
  });
});
