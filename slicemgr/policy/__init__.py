# SPDX-License-Identifier: LGPL-2.1-or-later
"""Judgement: pure functions of model values; the same input gives the same answer on any machine."""
