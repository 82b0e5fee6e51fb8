# SPDX-License-Identifier: LGPL-2.1-or-later
"""The test bed: an image is built, a guest is booted, pytest runs in it and reports out here."""
