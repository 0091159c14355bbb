"""Parts of an eight-channel pipette: one nozzle, four, all; tips put back elsewhere, and a rack filled again."""

from opentrons.protocol_api import ALL, PARTIAL_COLUMN, SINGLE

metadata = {"protocolName": "Partial tip pick-up"}
requirements = {"robotType": "OT-2", "apiLevel": "2.21"}


def run(ctx):  # type: ignore[no-untyped-def]
    whole = ctx.load_labware("opentrons_96_tiprack_300ul", "4")
    parts = ctx.load_labware("opentrons_96_tiprack_300ul", "5")
    plate = ctx.load_labware("nest_96_wellplate_200ul_flat", "7")
    reservoir = ctx.load_labware("nest_12_reservoir_15ml", "10")
    pipette = ctx.load_instrument("p300_multi_gen2", "left", tip_racks=[whole, parts])

    def tell(rack):  # type: ignore[no-untyped-def]
        """What opentrons itself takes for gone, which the test of the fold compares with."""
        ctx.comment(f"gone: {rack.parent} " + " ".join(well.well_name for well in rack.wells() if not well.has_tip))

    pipette.configure_nozzle_layout(style=SINGLE, start="H1", tip_racks=[parts])
    for row in range(3):
        pipette.transfer(20, reservoir["A2"], plate.columns()[1][row])
    tell(parts)
    pipette.configure_nozzle_layout(style=PARTIAL_COLUMN, start="H1", end="E1", tip_racks=[parts])
    pipette.pick_up_tip()
    pipette.aspirate(20, reservoir["A3"])
    pipette.dispense(20, plate["H3"])
    pipette.drop_tip()
    tell(parts)
    pipette.configure_nozzle_layout(style=ALL, tip_racks=[whole])
    pipette.pick_up_tip()
    pipette.return_tip()
    pipette.pick_up_tip(whole["A5"])
    pipette.drop_tip(whole["A1"])
    pipette.pick_up_tip(whole["A12"])
    pipette.drop_tip()
    ctx.pause("Put new tips into the rack in slot 4.")
    pipette.reset_tipracks()
    pipette.pick_up_tip(whole["A12"])
    pipette.drop_tip()
    tell(whole)
