'use strict';

const { randomBytes } = require('node:crypto');
const { lookup } = require('node:dns/promises');
const { isIP } = require('node:net');
const { rootCertificates } = require('node:tls');

const { checkValidity, readPem, subjectNames } = require('./certificate.js');
const { get } = require('./http.js');
const { connectThrough } = require('./proxy.js');
const { check } = require('./result.js');

/** Where the distributions keep the authorities that the system trusts. */
const SYSTEM_ROOTS = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem',
  '/etc/ssl/ca-bundle.pem',
  '/etc/ssl/cert.pem',
];

/** Certificates tell nothing about a clock that is off by less; a log does. */
const CLOCK_TOLERANCE_MS = 5 * 60_000;

/** What the system calls a failure to connect, and what it means. */
const CONNECT_FAULTS = {
  ECONNREFUSED: ['refuses connections', 'start the server there, or mend the port in serverUrl'],
  ETIMEDOUT: ['does not answer', 'let its firewall admit the port'],
  EHOSTUNREACH: ['cannot be reached', 'ip route get ADDRESS'],
  ENETUNREACH: ['cannot be reached: there is no route', 'ip route'],
  ECONNRESET: ['closes the connection', 'look for a proxy or firewall on the way'],
};

const NO_TLS = ['speaks no TLS', 'use ws:// in serverUrl, or give the server a certificate'];

/**
 * What lies between this host and the server of this configuration.
 *
 * @param {import('./host.js').Host} host
 * @param {Record<string, any>} config
 * @returns {Promise<import('./result.js').Result[]>}
 */
async function checkClient(host, config) {
  const url = new URL(config.serverUrl);
  const name = url.hostname.replace(/^\[|\]$/g, '');
  const secure = url.protocol === 'wss:';
  const port = Number(url.port) || (secure ? 443 : 80);
  const results = [checkEnvironment(host, config)];
  // A proxy looks the name up itself.
  const through = config.proxy ? await checkProxy(config.proxy, { name, port }, results) : undefined;
  if (config.proxy && !through) return results.filter(Boolean);
  const addresses = config.proxy ? [name] : await checkName(name, results);
  if (addresses.length === 0) return results.filter(Boolean);

  const target = {
    host: addresses[0],
    port,
    through,
    secure,
    servername: isIP(name) ? undefined : name,
    ca: trusted(host, config),
    path: `${url.pathname}${url.search}`,
    headers: upgradeHeaders(name, url),
  };
  const answer = await get(target);
  results.push(checkReach(target, answer));
  if (answer.error && !answer.certificate) return results.filter(Boolean);
  if (secure) results.push(...checkTls(name, answer, host.now()));
  results.push(checkClock(answer, host), checkUpgrade(answer));
  return results.filter(Boolean);
}

/** The environment's proxy holds where the configuration says nothing. */
function checkEnvironment(host, config) {
  const name = ['https_proxy', 'HTTPS_PROXY'].find((variable) => host.env[variable]);
  if (!name || config.proxy !== undefined) return undefined;
  const { warn } = check('proxy');
  return warn(
    `${name} is set: the client goes through it, unless NO_PROXY exempts the server; these checks go directly`,
    'give proxy in the configuration to have the way through it looked at, or "" for none',
  );
}

/** The way through the configuration's proxy; `undefined` if it leads nowhere. */
async function checkProxy(url, { name, port }, results) {
  const { ok, fail } = check('proxy');
  const { host: proxy } = new URL(url);
  const { socket, status, error } = await connectThrough(url, name, port);
  if (socket) {
    results.push(ok(`${proxy} connects to ${name}`));
  } else if (error) {
    const [what, fix] = CONNECT_FAULTS[error.code] ?? [`cannot be used: ${error.message}`];
    results.push(fail(`${proxy} ${what}`, fix?.replace('serverUrl', 'proxy') ?? 'look at proxy'));
  } else {
    const advice = status === 407 ? 'write them as http://user:password@host:port' : 'ask who runs the proxy';
    const wants = status === 407 ? ', it wants a user and password' : ` to ${name}:${port}`;
    results.push(fail(`${proxy} does not connect${wants} (HTTP ${status})`, advice));
  }
  return socket;
}

async function checkName(name, results) {
  const { ok, fail } = check('server name');
  if (isIP(name)) return [name];
  try {
    const found = (await lookup(name, { all: true })).map(({ address }) => address);
    results.push(ok(`${name} is ${found.join(', ')}`));
    return found;
  } catch (error) {
    const why = error.code === 'ENOTFOUND' ? 'is not known' : `cannot be looked up: ${error.code}`;
    results.push(fail(`${name} ${why}`, `getent hosts ${name}; look at serverUrl and /etc/resolv.conf`));
    return [];
  }
}

function checkReach({ host, port }, { error, certificate }) {
  const { ok, fail } = check('connection');
  const address = host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
  if (!error || certificate) return ok(`${address} answers`);
  const fault = /SSL|EPROTO/.test(error.code) ? NO_TLS : CONNECT_FAULTS[error.code];
  const [what, fix] = fault ?? [`cannot be used: ${error.message}`, 'look at serverUrl'];
  return fail(`${address} ${what}`, fix);
}

/** What the server shows, and whether this host trusts it. */
function checkTls(name, { certificate, authorizationError, error }, now) {
  const { ok, fail } = check('TLS');
  if (!certificate)
    return [fail(`no certificate was shown: ${error?.message}`, 'is it a ws:// server? Look at serverUrl')];
  const validity = checkValidity(certificate, now);
  if (validity.state === 'fail') return [validity];
  const issuer = /^(?:O|CN)=(.+)$/m.exec(certificate.issuer ?? '')?.[1] ?? 'an unnamed authority';
  if (!authorizationError) return [validity, ok(`trusted; issued by ${issuer}`)];
  const code = authorizationError.code ?? String(authorizationError);
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    const names = subjectNames(certificate).join(', ');
    return [fail(`the certificate is for ${names}, not for ${name}`, 'use one of these names in serverUrl')];
  }
  return [
    validity,
    fail(
      `the certificate, issued by ${issuer}, is not trusted (${code})`,
      'name the authority in tlsCa; if you do not know it, somebody on the way reads along',
    ),
  ];
}

function checkClock({ headers }, host) {
  const theirs = Date.parse(headers.date ?? '');
  if (Number.isNaN(theirs)) return undefined;
  const { ok, fail } = check('clock');
  const difference = Math.round((host.now() - theirs) / 1000);
  if (Math.abs(difference) * 1000 <= CLOCK_TOLERANCE_MS) return ok("agrees with the server's");
  const way = difference > 0 ? 'ahead of' : 'behind';
  return fail(`${Math.abs(difference)} s ${way} the server's`, host.sudo('timedatectl set-ntp true'));
}

/** Whether what answers lets a WebSocket through. */
function checkUpgrade({ status, headers, error }) {
  const { ok, fail } = check('upgrade');
  const { server, via } = headers;
  const front = server ?? via;
  const through = front ? `, through ${front}` : '';
  if (error) return fail(error.message, 'look at the port in serverUrl');
  if (status === 101) return ok(`a WebSocket opens${through}`);
  const advice = {
    301: 'use the address that it redirects to in serverUrl',
    302: 'use the address that it redirects to in serverUrl',
    400: 'let the proxy pass the headers Upgrade and Connection on, with HTTP/1.1',
    403: 'admit this client in the proxy or CDN',
    404: 'use the path of the VPN in serverUrl; the proxy or the server has another',
    426: 'let the proxy pass the headers Upgrade and Connection on, with HTTP/1.1',
    502: 'start the VPN server behind the proxy',
    503: 'start the VPN server behind the proxy',
    504: 'start the VPN server behind the proxy',
  }[status];
  return fail(
    `HTTP ${status} instead of a WebSocket${front ? `, from ${front}` : ''}`,
    advice ?? 'let the proxy pass WebSocket upgrades (for nginx see the README, "With TLS")',
  );
}

function upgradeHeaders(name, url) {
  return {
    Host: url.host || name,
    Upgrade: 'websocket',
    Connection: 'Upgrade',
    'Sec-WebSocket-Version': '13',
    'Sec-WebSocket-Key': randomBytes(16).toString('base64'),
    'Sec-WebSocket-Protocol': 'smartvpn.v1',
  };
}

/** What the engine trusts: the authority of the configuration alone, or the system's. */
function trusted(host, { tlsCa }) {
  if (tlsCa !== undefined) {
    try {
      return [readPem(tlsCa)];
    } catch {
      return [];
    }
  }
  const files = [host.env.SSL_CERT_FILE, ...SYSTEM_ROOTS].filter(Boolean);
  const text = files.map((file) => host.read(file)).find((found) => found !== undefined);
  return text === undefined ? [...rootCertificates] : [text];
}

module.exports = { checkClient };
