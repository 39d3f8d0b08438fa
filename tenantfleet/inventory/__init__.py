"""Which machine belongs to whom (the ledger), and how Ansible is told of it."""
