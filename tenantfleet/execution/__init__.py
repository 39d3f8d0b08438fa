"""Runs playbooks: the only part that starts Ansible."""
