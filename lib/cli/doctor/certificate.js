'use strict';

const { X509Certificate, createPrivateKey } = require('node:crypto');
const { readFileSync, statSync } = require('node:fs');

const { commandLine } = require('../shell.js');
const { check } = require('./result.js');

const PEM_START = '-----BEGIN';
const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^]*?-----END CERTIFICATE-----/g;

/** Renewals that fail are noticed this long before, in milliseconds. */
const RENEWAL_MARGIN_MS = 14 * 86_400_000;

const RENEW = 'renew it, for example: sudo certbot renew';

/**
 * Whether a server's certificate and key are what clients will take.
 *
 * @param {{ tlsCert?: string, tlsKey?: string }} config
 * @param {number} now
 * @returns {import('./result.js').Result[]}
 */
function checkCertificate({ tlsCert, tlsKey }, now) {
  const { ok, warn, fail } = check('certificate');
  if (tlsCert === undefined) {
    return [ok('none: plain ws://, for a proxy in front; packets are sealed all the same')];
  }
  let chain, key;
  try {
    chain =
      readPem(tlsCert)
        .match(CERTIFICATE)
        ?.map((pem) => new X509Certificate(pem)) ?? [];
    key = createPrivateKey(readPem(tlsKey));
  } catch (error) {
    return [
      fail(
        `certificate or key cannot be read: ${error.message}`,
        `look at ${pathOf(tlsCert)} and ${pathOf(tlsKey)}`,
      ),
    ];
  }
  const [certificate, ...rest] = chain;
  if (!certificate)
    return [fail(`${pathOf(tlsCert)} holds no certificate`, 'name the chain in PEM: fullchain.pem')];
  if (!certificate.checkPrivateKey(key)) {
    return [
      fail('the key does not belong to the certificate', `look at ${pathOf(tlsCert)} and ${pathOf(tlsKey)}`),
    ];
  }
  const results = [checkValidity(certificate, now)];
  if (certificate.ca) {
    const fix = 'openssl req -x509 … -addext basicConstraints=CA:FALSE';
    results.push(fail("it is an authority's and no server's: clients refuse it", fix));
  }
  if (rest.length === 0 && certificate.issuer !== certificate.subject) {
    results.push(
      warn(
        'it comes alone; clients may need the certificates between it and the authority',
        'name fullchain.pem in tlsCert',
      ),
    );
  } else if (rest.length > 0 && !certificate.checkIssued(rest[0])) {
    results.push(
      fail(
        'the chain is in the wrong order: the second certificate did not issue the first',
        "the server's own comes first",
      ),
    );
  }
  if (isOpen(tlsKey)) {
    const command = commandLine(['chmod', '600', tlsKey], { root: true });
    results.push(fail(`${tlsKey} can be read by others, and is refused`, command));
  }
  return results;

  function pathOf(text) {
    return text.startsWith(PEM_START) ? 'the configuration' : text;
  }
}

/** Whether a certificate holds now, and for a while. */
function checkValidity(certificate, now, name = 'certificate') {
  const { ok, warn, fail } = check(name);
  const [from, to] = [Date.parse(certificate.validFrom), Date.parse(certificate.validTo)];
  const names = subjectNames(certificate).join(', ') || 'no name';
  const day = (time) => new Date(time).toISOString().slice(0, 10);
  if (now < from) {
    return fail(
      `for ${names}, valid only from ${day(from)}: is the clock right (${day(now)})?`,
      'sudo timedatectl set-ntp true',
    );
  }
  if (now > to) return fail(`for ${names}, expired on ${day(to)}`, RENEW);
  if (to - now < RENEWAL_MARGIN_MS) return warn(`for ${names}, expires on ${day(to)}`, RENEW);
  return ok(`for ${names}, until ${day(to)}`);
}

/** The names and addresses that a certificate is for. */
function subjectNames({ subjectAltName }) {
  return (subjectAltName ?? '')
    .split(', ')
    .map((name) => name.replace(/^(DNS|IP Address):/, ''))
    .filter(Boolean);
}

function readPem(text) {
  return text.startsWith(PEM_START) ? text : readFileSync(text, 'utf8');
}

/** Whether a server refuses the key file: root's may be readable by a group. */
function isOpen(text) {
  if (text.startsWith(PEM_START)) return false;
  const { mode, uid } = statSync(text);
  return (mode & (uid === 0 ? 0o037 : 0o077)) !== 0;
}

module.exports = { checkCertificate, checkValidity, readPem, subjectNames };
