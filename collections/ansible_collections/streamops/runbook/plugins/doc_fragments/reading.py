"""The options that every module which reads the stack's health has in common."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  target:
    description: What is probed and as whom.
    type: dict
    required: true
    suboptions:
      endpoints: {description: The endpoints of the stack (endpoints.json)., type: dict, required: true}
      kafka_user: {description: Username and password of the probing principal., type: dict, required: true}
      s3_user: {description: Access key and secret key of the probing user., type: dict, required: true}
      brokers: {description: Bootstrap address by broker host., type: dict, required: true}
      fewest_brokers: {description: In how many brokers a write must be., type: int, default: 1}
      voters:
        description: Hosts of the Kafka nodes that vote; every broker where there are none.
        type: list
        elements: str
        default: []
      controllers: {description: "Address (host:port) by host of those that are controllers alone.", type: dict, default: {}}
      secured:
        description: Every port that shows a certificate, with its address (host:port), host and service.
        type: list
        elements: dict
        default: []
      hosts: {description: Host by service., type: dict, required: true}
      monitoring:
        description: Addresses of Prometheus, Alertmanager and exporters, and how many targets there are; empty for none.
        type: dict
        default: {}
      cluster_id: {description: The cluster id that the inventory names., type: str, required: true}
      topics: {description: Declared topics., type: list, elements: str, required: true}
      buckets: {description: Declared buckets., type: list, elements: str, required: true}
      progress_max_age: {description: Oldest progress of the stream that is healthy in seconds., type: float, default: 30.0}
      ack_max_age: {description: Oldest acknowledged event that is healthy in seconds., type: float, default: 15.0}
      timeout: {description: Limit of one question in seconds., type: float, default: 4.0}
      tls:
        description: Where the stack speaks TLS, the files of this machine that it is trusted by and shown.
        type: dict
        suboptions:
          ca_file: {description: "Our authority's certificates, as PEM.", type: path, required: true}
          cert_file: {description: "The certificate that we show, as PEM.", type: path, required: true}
          key_file: {description: "Its key, as PEM.", type: path, required: true}
  scope:
    description: Services to probe.
    type: list
    elements: str
    choices: [kafka, minio, spark-streaming, producer, monitoring]
    default: [kafka, minio, spark-streaming, producer, monitoring]
  services: {description: ServiceInfo of every service that could be read., type: list, elements: dict, default: []}
  unreachable: {description: "Services by host that can not be reached; what these hosts alone account for is excused.", type: dict}
  reasons: {description: By host why it could not be inspected., type: dict, default: {}}
  polls: {description: Good readings in a row that count as healthy., type: int, default: 1}
  interval: {description: Seconds between two readings., type: float, default: 1.0}
  deadline: {description: Seconds within which the stack may become healthy., type: float, default: 0.0}
"""
