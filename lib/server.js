'use strict';

const { requireInteger, requireString } = require('./arguments.js');
const { Controller, kAnnounce, kConfigure, kDiscard, kOpen, kRequest } = require('./controller.js');
const { rejectUnsupported } = require('./unsupported.js');

const EVENTS = [
  'client-connected',
  'client-disconnected',
  'client-resumed',
  'warning',
  'status',
  'log',
  'lost',
  'reconnected',
];

/** A VPN server: serves any number of clients on one port. */
class VpnServer extends Controller {
  constructor(options) {
    super('server', EVENTS, options);
  }

  async start(config) {
    const settings = this[kConfigure](config);
    await this[kOpen]();
    if (settings !== undefined) {
      try {
        await this[kRequest]('start', settings);
      } catch (error) {
        await this[kDiscard]();
        throw error;
      }
    }
    this[kAnnounce]();
  }

  async stopServer() {
    await this[kRequest]('stopServer');
  }

  getStatus() {
    return this[kRequest]('getStatus');
  }

  getStatistics() {
    return this[kRequest]('getStatistics');
  }

  listClients() {
    return this[kRequest]('listClients');
  }

  async disconnectClient(id) {
    requireString(id, 'id');
    await this[kRequest]('disconnectClient', { id });
  }

  generateKeypair() {
    return this[kRequest]('generateKeypair');
  }

  async setClientRateLimit(id, rateBytesPerSec, burstBytes) {
    requireString(id, 'id');
    requireInteger(rateBytesPerSec, 'rateBytesPerSec', 1);
    requireInteger(burstBytes, 'burstBytes', 1);
    await this[kRequest]('setClientRateLimit', { id, rateBytesPerSec, burstBytes });
  }

  async removeClientRateLimit(id) {
    requireString(id, 'id');
    await this[kRequest]('removeClientRateLimit', { id });
  }

  async getClientTelemetry(id) {
    requireString(id, 'id');
    return this[kRequest]('getClientTelemetry', { id });
  }

  addClient() {
    return rejectUnsupported('addClient()');
  }

  updateClient() {
    return rejectUnsupported('updateClient()');
  }

  removeClient() {
    return rejectUnsupported('removeClient()');
  }

  listRegisteredClients() {
    return rejectUnsupported('listRegisteredClients()');
  }

  createInvite() {
    return rejectUnsupported('createInvite()');
  }
}

module.exports = { VpnServer };
